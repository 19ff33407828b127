// The dials: samples whose noise stays, so that temperature, β̃ or class alone move them.
import { ask } from "model";
import { choice, el, latest, Samples } from "view";

// Dials and their grid, in `box`; `settings` are shared by those that move together.
export function dialsView(panel, app) {
  const { facts, run } = app;
  if (!facts.generates) {
    panel.append(el("p", {}, `${facts.system} has no model of x, so that there is nothing to draw samples from: `
      + "ib-inn, class-nll, vae, bvae, vae-as, m2 and untapped have one."));
    return { state: () => {}, shown: () => {} };
  }
  const canvas = el("canvas", { className: "pixels", role: "img", ariaLabel: "samples, a row a class" });
  Object.assign(canvas.style, { width: "100%", maxWidth: "900px" });
  const line = el("p", { className: "verdict", ariaLive: "polite" });
  const temperature = dial("temperature", 0, 1.5, 0.01, 0.8);
  const beta = facts.betas ? dial("β̃ (log scale)", Math.log(facts.betas[0]), Math.log(facts.betas[1]), 0.01,
    Math.log(facts.beta), (v) => Math.exp(v).toPrecision(3)) : null;
  const seed = el("input", { type: "number", min: 0, value: 0, onchange: () => load() });
  const [aroundLabel, around] = choice("around", [["means", "class means"], ["data", "class averages"]], () => load());
  const [classLabel, only] = choice("class", [["", "all"], ...facts.classes.map((name, k) => [k, name])], () => load());

  function dial(name, min, max, step, value, text = (v) => v.toFixed(2)) {
    const output = el("output", {}, text(value));
    const input = el("input", { type: "range", min, max, step, value, ariaLabel: name,
      oninput: () => { output.textContent = text(+input.value); load(); } });
    return { input, box: el("label", { className: "wide" }, name, input, output) };
  }
  const load = latest(async () => {
    const per = only.value === "" ? 8 : 16;
    const question = { temperature: +temperature.input.value, seed: Math.max(0, Math.floor(+seed.value) || 0),
      around: around.value, per_class: per };
    if (beta) question.beta = Math.exp(+beta.input.value);
    if (only.value !== "") question.class = +only.value;
    const told = await ask(run, "samples", question);
    const samples = new Samples(facts, told.x), wrong = new Set();
    told.label.forEach((label, k) => { if (told.predicted[k] !== label) wrong.add(k); });
    samples.grid(canvas, only.value === "" ? samples.length / facts.classes.length : 8, undefined, wrong);
    const right = 100 * (1 - wrong.size / samples.length);
    const bits = told.bits_per_dim ? ` · ${(told.bits_per_dim.reduce((a, b) => a + b, 0) / samples.length).toFixed(3)} bits/dim` : "";
    line.textContent = `${right.toFixed(0)} % are recognised as their class${bits}${facts.features ? "" : "; others are framed"}`;
    panel.dataset.frames = +(panel.dataset.frames ?? 0) + 1;
  });
  panel.append(el("div", { className: "row" }, temperature.box, ...(beta ? [beta.box] : [])),
    el("div", { className: "row" }, el("label", {}, "seed", seed),
      el("button", { onclick: () => { seed.value = Math.floor(1e6 * Math.random()); load(); } }, "other noise"), aroundLabel, classLabel),
    line, canvas);
  if (facts.features) panel.append(el("p", { className: "hint" }, "A row a sample, a column a feature: blue below its median, red above."));
  load();
  return { state: () => {}, shown: () => {} };
}
