// The walk: a path of latents between two samples, decoded; and the way of one to another class.
import { ask, canAttribute, canFilm, canTakePictures, fit } from "model";
import { choice, diverging, download, el, fail, latest, posteriorBars, Samples, takesPictures, verdict } from "view";

const STRIP = 9;

// Choice of a sample, a class average, or a picture; calls `changed` with a place.
export function placePicker(title, app, start, changed) {
  const { facts, run, pictures } = app;
  let place = { sample: start };
  const picture = pictures.canvas(start, title);
  const number = el("input", { type: "number", min: 0, max: facts.samples - 1, value: start, ariaLabel: "test sample",
    onchange: () => sample(+number.value) });
  const [classLabel, classes] = choice("", [["", "class average …"], ...facts.classes.map((name, k) => [k, name])],
    async () => {
      if (classes.value === "") return;
      place = { class: +classes.value };
      await show();
      changed(place);
    });
  const box = el("div", { className: "card" }, el("h2", {}, title), picture, el("div", { className: "row" },
    el("label", {}, "sample", number),
    el("button", { onclick: () => sample(Math.floor(Math.random() * facts.samples)) }, "random"), classLabel));
  async function show() {
    try {
      const told = await ask(run, "judge", { place, neighbours: 0 });
      new Samples(facts, told.x).paint(picture, 0);
    } catch (error) { fail(error); }
  }
  function sample(k) {
    if (!(k >= 0 && k < facts.samples)) { fail(`expected a sample from 0 to ${facts.samples - 1}`); return; }
    number.value = k;
    classes.value = "";
    place = { sample: k };
    pictures.paint(picture, k);
    changed(place);
  }
  if (!facts.features && canTakePictures) {
    box.append(takesPictures(box, async (file) => {
      try {
        place = { x: (await fit(run, file)).x };
        await show();
        changed(place);
      } catch (error) { fail(error); }
    }));
  }
  return { box, sample, get place() { return place; } };
}

export function walkView(panel, app) {
  const { facts, run } = app;
  let told = null, samples = null, playing = 0;
  const start = placePicker("from", app, 0, () => load());
  const end = placePicker("to", app, Math.min(app.other ?? 1, facts.samples - 1), () => load());
  const [pathLabel, path] = choice("path", [["straight", "straight line"], ["spherical", "arc of constant length"],
    ["means", "by the class averages"]], () => load());
  const [targetLabel, target] = choice("to the other class", [["", "–"], ...facts.classes.map((name, k) => [k, name])],
    () => load());
  targetLabel.hidden = !facts.decodes;
  const picture = app.pictures.canvas(0, "the walk"), line = el("p", { className: "verdict", ariaLive: "polite" });
  const slider = el("input", { type: "range", min: 0, max: 32, value: 0, ariaLabel: "place on the walk", oninput: () => show() });
  const curves = el("canvas", { className: "strip", role: "img", ariaLabel: "posterior and bits per dimension along the walk" });
  const strip = el("canvas", { className: "strip pixels", role: "img", ariaLabel: "images of the walk" });
  const heat = el("canvas", { className: "pixels picture", role: "img", ariaLabel: "what speaks for the class" });
  const why = el("div", { className: "card", hidden: true }, el("h2", {}, "what speaks for it (red) and against (blue)"), heat);
  const side = el("div", { className: "card" }, picture, line);
  const bars = posteriorBars(side, facts);
  const buttons = el("div", { className: "row" }, el("button", { onclick: play }, "play"));
  if (!facts.features) {
    buttons.append(el("button", { onclick: () => download("walk.png", strip.toDataURL()) }, "save strip (PNG)"));
    if (canFilm) buttons.append(el("button", { onclick: film }, "save film (GIF)"));
  }
  side.append(buttons);
  const hint = facts.decodes ? "" : `${facts.system} cannot decode: the test sample with the nearest latent stands for each point.`;
  panel.append(el("div", { className: "pair" }, start.box, end.box),
    el("div", { className: "row", style: "margin-top:1rem" }, pathLabel, targetLabel,
      el("label", { className: "wide" }, "place", slider)),
    el("p", { className: "hint" }, hint),
    el("div", { className: "columns" }, el("div", {}, el("div", { className: "card" }, strip, curves), why), side));

  const load = latest(async () => {
    why.hidden = true;
    if (target.value === "") {
      told = await ask(run, "walk", { start: start.place, end: end.place, path: path.value });
    } else {
      told = await ask(run, "counterfactual", { place: start.place, target: +target.value, steps: 33 });
      if (canAttribute) explain();
    }
    samples = new Samples(facts, told.x);
    slider.max = samples.length - 1;
    const shown = [...Array(STRIP).keys()].map((k) => Math.round(k * (samples.length - 1) / (STRIP - 1)));
    samples.grid(strip, STRIP, shown);
    draw();
    show();
  });
  const explain = latest(async () => {
    const found = await ask(run, "contributions", { place: start.place, target: +target.value });
    paintContributions(heat, found.nats, facts);
    why.hidden = false;
  });

  function show() {
    const k = +slider.value;
    if (!samples || k >= samples.length) return;
    samples.paint(picture, k);
    bars(told.posterior[k]);
    verdict(line, told, k, facts);
    panel.dataset.frames = +(panel.dataset.frames ?? 0) + 1;
    draw();
  }

  function draw() {
    if (!told || !curves.clientWidth) return;
    const width = curves.clientWidth, height = 170, ratio = devicePixelRatio;
    Object.assign(curves, { width: width * ratio, height: height * ratio });
    const context = curves.getContext("2d"), ink = getComputedStyle(document.body).color, n = told.posterior.length;
    context.scale(ratio, ratio);
    const at = (k) => 4 + (width - 8) * k / (n - 1);
    const curve = (values, color, low, high, dash = []) => {
      context.strokeStyle = color;
      context.setLineDash(dash);
      context.lineWidth = 2;
      context.beginPath();
      values.forEach((v, k) => context.lineTo(at(k), height - 22 - (height - 36) * (v - low) / (high - low || 1)));
      context.stroke();
    };
    facts.classes.forEach((name, c) => {
      const values = told.posterior.map((row) => row[c]);
      if (Math.max(...values) > 0.02) curve(values, facts.colors[c], 0, 1);
    });
    context.fillStyle = ink;
    context.font = "11px sans-serif";
    let text = "posterior (classes' colours)";
    if (told.bits_per_dim && !told.bits_per_dim.includes(null)) {
      const low = Math.min(...told.bits_per_dim), high = Math.max(...told.bits_per_dim);
      curve(told.bits_per_dim, ink, low, high, [5, 3]);
      text += `; dashed: bits/dim, ${low.toFixed(2)} to ${high.toFixed(2)}`;
    }
    if (told.p_value) {
      curve(told.p_value, "#8a93a3", 0, 1, [1, 3]);
      text += "; dotted: p-value, 0 to 1";
    }
    context.setLineDash([]);
    context.fillText(text, 4, height - 6);
    context.fillRect(at(+slider.value) - 0.5, 6, 1, height - 26);
  }

  function play() {
    clearInterval(playing);
    let k = 0, step = 1;
    playing = setInterval(() => {
      slider.value = k;
      show();
      k += step;
      if (k === +slider.max) step = -1;
      if (k < 0 || panel.hidden) clearInterval(playing);
    }, 45);
  }

  async function film() {
    try {
      const { gif } = await ask(run, "film", { start: start.place, end: end.place, path: path.value });
      download("walk.gif", `data:image/gif;base64,${gif}`);
    } catch (error) { fail(error); }
  }
  new ResizeObserver(() => draw()).observe(curves);
  load();
  return { state: () => load(), shown: () => draw() };
}

function paintContributions(canvas, nats, facts) {
  if (facts.features) {
    const most = Math.max(...facts.features.map(({ column }) => Math.abs(nats[column]))) || 1;
    const context = canvas.getContext("2d"), height = 16;
    Object.assign(canvas, { width: 300, height: height * facts.features.length, className: "table-row" });
    context.font = "11px sans-serif";
    facts.features.forEach((feature, k) => {
      const share = nats[feature.column] / most;
      context.fillStyle = getComputedStyle(document.body).color;
      context.fillText(feature.name.slice(0, 20), 0, k * height + 11, 130);
      context.fillStyle = diverging(Math.sign(share));
      context.fillRect(Math.min(215, 215 + 80 * share), k * height + 3, Math.abs(80 * share), height - 5);
    });
    return;
  }
  const [channels, height, width] = facts.shape, plane = height * width;
  const sums = Float64Array.from({ length: plane }, (_, p) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += nats[c * plane + p];
    return sum;
  });
  const most = sums.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-12), context = canvas.getContext("2d");
  Object.assign(canvas, { width, height });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  sums.forEach((value, p) => {
    context.fillStyle = diverging(value / most);
    context.fillRect(p % width, Math.floor(p / width), 1, 1);
  });
}
