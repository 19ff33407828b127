// Two runs side by side: the same walk, the same noise.
import { ask } from "model";
import { choice, el, latest, posteriorBars, Samples, verdict } from "view";

const STRIP = 9;

export function compareView(panel, app) {
  if (app.all.length < 2) {
    panel.append(el("p", {}, "Start the page with two runs on the same data, of two β̃ or two systems: ",
      el("code", {}, "flowclf explore RUN OTHER")));
    return { state: () => {}, shown: () => {} };
  }
  const facts = app.facts, names = app.all.map((each, k) => [k, `${each.run} (${each.system})`]);
  const first = number(0), second = number(Math.min(app.other ?? 1, facts.samples - 1));
  const slider = el("input", { type: "range", min: 0, max: 32, value: 0, ariaLabel: "place on the walk", oninput: () => sides.forEach((s) => s.show()) });
  const temperature = el("input", { type: "range", min: 0, max: 1.5, step: 0.01, value: 0.8, ariaLabel: "temperature",
    oninput: () => sides.forEach((s) => s.draw()) });
  const sides = [0, 1].map((k) => side(k));
  panel.append(el("div", { className: "row" }, el("label", {}, "from sample", first), el("label", {}, "to", second),
    el("label", { className: "wide" }, "place", slider), el("label", { className: "wide" }, "temperature", temperature)),
    el("div", { className: "pair" }, ...sides.map((s) => s.box)));

  function number(value) {
    return el("input", { type: "number", min: 0, max: facts.samples - 1, value, onchange: () => sides.forEach((s) => s.load()) });
  }

  function side(start) {
    const picture = app.pictures.canvas(0, "the walk"), line = el("p", { className: "verdict" });
    const strip = el("canvas", { className: "strip pixels", role: "img", ariaLabel: "images of the walk" });
    const grid = el("canvas", { className: "strip pixels", role: "img", ariaLabel: "samples" });
    const none = el("p", { className: "hint" });
    const [label, run] = choice("", names, () => { load(); draw(); });
    run.value = start;
    const bars = el("div"), box = el("div", { className: "card" }, label, strip, picture, line, bars, grid, none);
    const update = posteriorBars(bars, facts);
    let told = null, samples = null;
    const load = latest(async () => {
      told = await ask(+run.value, "walk", { start: { sample: +first.value }, end: { sample: +second.value } });
      samples = new Samples(app.all[run.value], told.x);
      samples.grid(strip, STRIP, [...Array(STRIP).keys()].map((k) => Math.round(k * (samples.length - 1) / (STRIP - 1))));
      show();
    });
    const draw = latest(async () => {
      const own = app.all[run.value];
      grid.hidden = !own.generates;
      none.textContent = own.generates ? "" : `${own.system} has no model of x to draw samples from`;
      if (!own.generates) return;
      const found = await ask(+run.value, "samples", { temperature: +temperature.value, per_class: 6 });
      const drawn = new Samples(own, found.x);
      drawn.grid(grid, drawn.length / own.classes.length * 2);
    });
    function show() {
      const k = +slider.value;
      if (!samples) return;
      samples.paint(picture, k);
      update(told.posterior[k]);
      verdict(line, told, k, facts);
      panel.dataset.frames = +(panel.dataset.frames ?? 0) + 1;
    }
    load();
    draw();
    return { box, load, draw, show };
  }
  return { state: () => sides.forEach((s) => s.load()), shown: () => {} };
}
