// Questions are answered within the page: the model runs as ONNX in onnxruntime-web.
import * as ort from "ort";
import { base64Of, bytesOf } from "view";

const told = JSON.parse(document.getElementById("told").textContent);
const { facts, calibration } = told;
const SIZE = facts.shape.reduce((a, b) => a * b, 1), DIMS = facts.dimensions, K = facts.classes.length;
const floats = (base64) => new Float32Array(bytesOf(base64).buffer);
const Z = floats(told.z), CENTRES = floats(told.centres), AVERAGES = floats(told.averages), STD = floats(told.std);
const planes = {};
let plane;

export const canFilm = false, canAttribute = false, canTakePictures = false;
export const fit = () => { throw new Error("pictures need flowclf explore itself"); };

async function unpacked(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const sessions = (async () => {
  Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary: (await unpacked(told.wasm)).buffer });
  ort.env.logLevel = "error";
  const see = await ort.InferenceSession.create(await unpacked(told.programs.see));
  const show = await ort.InferenceSession.create(await unpacked(told.programs.show));
  return { see, show };
})();

// onnxruntime-web runs one model at a time.
let turn = Promise.resolve();
function run(name, input, data, shape) {
  const result = turn.then(async () => (await sessions)[name].run({ [input]: new ort.Tensor("float32", data, shape) }));
  turn = result.catch(() => {});
  return result;
}
const see = (x) => run("see", "x", x, [x.length / SIZE, ...facts.shape]);

// Decode latents (n, D), or take the nearest test samples; with log q(k|z).
async function shown(z) {
  const n = z.length / DIMS, found = await run("show", "z", z, [n, DIMS]);
  if (facts.decodes) return [found.x.data, found.log_posterior.data];
  const x = new Float32Array(n * SIZE);
  for (let k = 0; k < n; k++) x.set(sample(nearest(z.subarray(k * DIMS, (k + 1) * DIMS))), k * SIZE);
  return [x, found.log_posterior.data];
}

// ln(1 - p) of each class without rounding to ln 0.
function doubts(log) {
  const best = log.indexOf(Math.max(...log));
  const rest = log.reduce((sum, value, k) => k === best ? sum : sum + Math.exp(value), 0);
  return log.map((value, k) => k === best ? Math.log(rest) : Math.log1p(-Math.exp(value)));
}

async function tell(x, logPosterior = null) {
  const seen = await see(x), n = x.length / SIZE, logs = logPosterior ?? seen.log_posterior.data;
  const row = (values, k) => Array.from(values.subarray(k * K, (k + 1) * K));
  const density = (seen.log_prob ?? seen.elbo)?.data;
  const bits = density && Array.from(density, (v) => -v / (SIZE * Math.LN2));
  const answer = { x: packed(x), posterior: [...Array(n).keys()].map((k) => row(logs, k).map(Math.exp)),
    bits_per_dim: bits ?? null, decision: null, p_value: null, sets: null };
  if (calibration) {
    const { mean, std, precision, level, limits } = calibration;
    answer.p_value = []; answer.sets = []; answer.decision = [];
    for (let k = 0; k < n; k++) {
      const told = [-density[k] / SIZE, seen.log_det.data[k] / SIZE].map((v, j) => (v - mean[j]) / std[j]);
      let score = 0;
      told.forEach((a, i) => told.forEach((b, j) => { score += a * precision[i][j] * b; }));
      const p = Number.isFinite(score) ? (1 + scores.length - below(score)) / (scores.length + 1) : 1 / (scores.length + 1);
      const set = doubts(row(seen.log_posterior.data, k)).flatMap((doubt, c) => doubt <= limits[c % limits.length] ? [c] : []);
      answer.p_value.push(p);
      answer.sets.push(set);
      answer.decision.push(p <= level ? "never seen" : set.length === 1 ? "accept" : "ambiguous");
    }
  }
  return answer;
}
const scores = calibration ? floats(calibration.scores) : [];
function below(score) {
  let low = 0, high = scores.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] < score) low = middle + 1; else high = middle;
  }
  return low;
}

// Samples as they travel to and from the page, see wire.py.
function packed(x) {
  if (facts.features) return [...Array(x.length / SIZE).keys()].map((k) => Array.from(x.subarray(k * SIZE, (k + 1) * SIZE)));
  const top = told.levels - 1;
  return base64Of(Uint8Array.from(x, (v) => Math.round(Math.min(top, Math.max(0, Math.floor(v))) * 255 / top)));
}
function unpackedX(x) {
  if (facts.features) return Float32Array.from(x);
  return Float32Array.from(bytesOf(x), (v) => Math.round(v * (told.levels - 1) / 255) + told.middle);
}
const bytes = facts.features ? null : bytesOf(told.pictures);
const sample = (k) => unpackedX(facts.features ? told.pictures[k] : base64Of(bytes.subarray(k * SIZE, (k + 1) * SIZE)));
const rowOf = (values, k) => values.slice(k * DIMS, (k + 1) * DIMS);
const mix = (a, b, t) => a.map((v, d) => v + t * (b[d] - v));
const norm = (a) => Math.sqrt(a.reduce((sum, v) => sum + v * v, 0));

function nearest(z) {
  let best = 0, least = Infinity;
  for (let k = 0; k < facts.samples; k++) {
    let sum = 0;
    for (let d = 0; d < DIMS && sum < least; d++) sum += (Z[k * DIMS + d] - z[d]) ** 2;
    if (sum < least) { least = sum; best = k; }
  }
  return best;
}
async function latentOf(place) {
  if (place.sample !== undefined) return rowOf(Z, place.sample);
  if (place.class !== undefined) return rowOf(AVERAGES, place.class);
  return (await see(unpackedX(place.x))).z.data;
}
async function xOf(place) {
  if (place.sample !== undefined) return sample(place.sample);
  if (place.class !== undefined) return (await shown(rowOf(AVERAGES, place.class)))[0];
  return unpackedX(place.x);
}
async function classOf(z) {
  const log = (await run("show", "z", z, [1, DIMS])).log_posterior.data;
  return log.indexOf(Math.max(...log));
}
function joined(rows) {
  const all = new Float32Array(rows.length * DIMS);
  rows.forEach((row, k) => all.set(row, k * DIMS));
  return all;
}
const along = (steps, at) => joined([...Array(steps).keys()].map((k) => at(k / (steps - 1))));
function polyline(corners, steps) {
  return along(steps, (t) => {
    const place = t * (corners.length - 1), k = Math.min(Math.floor(place), corners.length - 2);
    return mix(corners[k], corners[k + 1], place - k);
  });
}
function arc(start, end, steps) {
  const lengths = [norm(start), norm(end)], dot = start.reduce((sum, v, d) => sum + v * end[d], 0);
  const angle = Math.acos(Math.max(-1, Math.min(1, dot / (lengths[0] * lengths[1] || 1))));
  if (Math.sin(angle) < 1e-4) return polyline([start, end], steps);
  return along(steps, (t) => {
    const length = (1 - t) * lengths[0] + t * lengths[1], sine = Math.sin(angle);
    const [a, b] = [Math.sin((1 - t) * angle) / sine / lengths[0], Math.sin(t * angle) / sine / lengths[1]];
    return start.map((v, d) => length * (a * v + b * end[d]));
  });
}
// Standard normal numbers of a seed.
function noise(seed) {
  let state = (seed + 0x9e3779b9) >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

const CALLS = {
  facts: () => facts,
  state: () => ({ ready: true, note: calibration?.note ?? "", p_value: told.p_value }),
  pictures: () => ({ x: told.pictures }),
  points({ plane: name = "means", dimensions = [0, 1] }) {
    if (name !== "dimensions") {
      const known = told.planes[name];
      planes[name] ??= { centre: floats(known.centre), basis: [0, 1].map((k) => rowOf(floats(known.basis), k)) };
      plane = planes[name];
      return known;
    }
    const centre = new Float32Array(DIMS);
    for (let k = 0; k < facts.samples; k++) for (let d = 0; d < DIMS; d++) centre[d] += Z[k * DIMS + d] / facts.samples;
    plane = { centre, basis: dimensions.map((k) => Float32Array.from(centre, (_, d) => +(d === k))) };
    const flat = (values, n) => [...Array(n).keys()].map((k) => dimensions.map((d) => values[k * DIMS + d] - centre[d]));
    const ellipses = [...Array(K).keys()].map((k) => [...dimensions.map((d) => 2 * STD[k * DIMS + d]), 0]);
    return { ...told.planes.means, at: flat(Z, facts.samples), means: flat(CENTRES, K), ellipses };
  },
  async decode({ at, sample: base }) {
    const { centre, basis } = plane, z = centre.map((v, d) => v + at[0] * basis[0][d] + at[1] * basis[1][d]);
    if (base !== undefined) {
      const ahead = rowOf(Z, base).map((v, d) => v - centre[d]);
      const inside = basis.map((b) => b.reduce((sum, v, d) => sum + v * ahead[d], 0));
      ahead.forEach((v, d) => { z[d] += v - inside[0] * basis[0][d] - inside[1] * basis[1][d]; });
    }
    return tell(...await shown(z));
  },
  async walk({ start, end, path = "straight", steps = 33 }) {
    const ends = [await latentOf(start), await latentOf(end)];
    if (path === "spherical") return tell(...await shown(arc(...ends, steps)));
    const means = path === "means" ? [rowOf(AVERAGES, await classOf(ends[0])), rowOf(AVERAGES, await classOf(ends[1]))] : [];
    return tell(...await shown(polyline([ends[0], ...means, ends[1]], steps)));
  },
  async counterfactual({ place, target, steps = 17 }) {
    const z = await latentOf(place), source = rowOf(AVERAGES, await classOf(z)), goal = rowOf(AVERAGES, target);
    const way = goal.map((v, d) => v - source[d]), square = norm(way) ** 2 || 1;
    const share = way.reduce((sum, v, d) => sum + v * (goal[d] - z[d]), 0) / square;
    return tell(...await shown(polyline([z, z.map((v, d) => v + share * way[d])], steps)));
  },
  async judge({ place }) {
    return { ...await tell(await xOf(place)), neighbours: null };
  },
  async wish({ place }) {
    const z = await latentOf(place), k = await classOf(z), mean = rowOf(CENTRES, k), std = rowOf(STD, k);
    const away = norm(z.map((v, d) => (v - mean[d]) / std[d])) || 1;
    return tell(...await shown(polyline([z, mix(z, mean, Math.max(0, 1 - told.radius / away))], 7)));
  },
  async samples({ per_class: each = 8, temperature = 0.8, seed = 0, around = "means", class: only }) {
    const classes = only === undefined ? [...Array(K).keys()] : [only], draw = noise(seed);
    const label = classes.flatMap((k) => Array(each).fill(k)), centres = around === "means" ? CENTRES : AVERAGES;
    const rows = label.map((k) => rowOf(centres, k).map((v, d) => v + temperature * STD[k * DIMS + d] * draw()));
    const x = (await shown(joined(rows)))[0], found = await tell(x);
    const predicted = found.posterior.map((p) => p.indexOf(Math.max(...p)));
    return { x: found.x, label, predicted, bits_per_dim: found.bits_per_dim };
  },
};

export async function ask(number, name, question = {}) {
  return CALLS[name](question);
}
