// Draw, drop or dial an input: what the model says of it, what is like it, what it would rather have seen.
import { ask, canTakePictures, fit } from "model";
import { base64Of, el, fail, latest, posteriorBars, Samples, takesPictures, verdict } from "view";

const SIDE = 280;

export function drawView(panel, app) {
  const { facts, run } = app;
  const seen = app.pictures.canvas(0, "as the model sees it"), line = el("p", { className: "verdict", ariaLive: "polite" });
  const card = el("div", { className: "card" }, el("h2", {}, "as the model sees it"), seen, line);
  const bars = posteriorBars(card, facts);
  const near = el("div", { className: "near" }), wish = el("canvas", { className: "strip pixels", role: "img",
    ariaLabel: "from this input to what the model would rather have seen" });
  const nearCard = el("div", { className: "card" }, el("h2", {}, "training samples with the nearest latents"), near);
  const wishCard = el("div", { className: "card" }, el("h2", {}, "what the model would rather have seen"), wish,
    el("p", { className: "hint" }, "The latent moves towards the likeliest class's mean, until it is as near as usual samples are."));
  let x = null;
  const judge = latest(async () => {
    if (x === null) return;
    const told = await ask(run, "judge", { place: { x } });
    new Samples(facts, told.x).paint(seen, 0);
    bars(told.posterior[0]);
    verdict(line, told, 0, facts);
    nearCard.hidden = !told.neighbours;
    if (told.neighbours) {
      const found = new Samples(facts, told.neighbours.x);
      near.replaceChildren(...told.neighbours.label.map((label, k) =>
        el("div", {}, found.canvas(k), facts.classes[label] ?? "no label")));
    }
    wishCard.hidden = !facts.decodes;
    if (facts.decodes) {
      const path = await ask(run, "wish", { place: { x } });
      new Samples(facts, path.x).grid(wish, path.posterior.length);
    }
    panel.dataset.frames = +(panel.dataset.frames ?? 0) + 1;
  });
  const take = (value) => { x = value; judge(); };
  const input = el("div", { className: "card" });
  if (facts.features) sliders(input, facts, app, take);
  else {
    pad(input, facts, run, take);
    take(app.pictures.at(0));
  }
  panel.append(el("div", { className: "pair" }, input, card), el("div", { className: "pair", style: "margin-top:1rem" }, nearCard, wishCard));
  return { state: () => judge(), shown: () => {} };
}

function sliders(box, facts, app, take) {
  const row = [...app.pictures.rows[0]];
  const form = el("div", { className: "sliders" }), inputs = [];
  for (const feature of facts.features) {
    const { column, low, high } = feature, output = el("output");
    const slider = el("input", { type: "range", min: low, max: high, step: (high - low) / 200 || 1, ariaLabel: feature.name,
      oninput: () => { row[column] = +slider.value; output.textContent = (+slider.value).toPrecision(4); take([...row]); } });
    inputs.push([slider, output, column]);
    form.append(el("label", {}, feature.name, output, slider));
  }
  const set = (k) => {
    row.splice(0, row.length, ...app.pictures.rows[k]);
    for (const [slider, output, column] of inputs) {
      slider.value = row[column];
      output.textContent = row[column].toPrecision(4);
    }
    take([...row]);
  };
  box.append(el("div", { className: "row" }, el("h2", {}, "features"),
    el("button", { onclick: () => set(Math.floor(Math.random() * facts.samples)) }, "a random test sample")), form);
  set(0);
}

function pad(box, facts, run, take) {
  const canvas = el("canvas", { className: "pad", width: SIDE, height: SIDE, tabIndex: 0, role: "img", ariaLabel: "drawing pad" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const ink = el("input", { type: "color", value: "#ffffff", ariaLabel: "ink" });
  const fitted = el("input", { type: "checkbox", checked: facts.shape[0] === 1, onchange: () => send() });
  const width = el("input", { type: "range", min: 6, max: 44, value: facts.shape[1] < 16 ? 34 : 22, ariaLabel: "brush" });
  const clear = () => { context.fillStyle = "#000"; context.fillRect(0, 0, SIDE, SIDE); };
  clear();
  let last = null, empty = true;
  const place = (event) => [event.offsetX * SIDE / canvas.clientWidth, event.offsetY * SIDE / canvas.clientHeight];
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); last = place(event); stroke(last); });
  canvas.addEventListener("pointermove", (event) => { if (last) stroke(place(event)); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  function stroke(to) {
    Object.assign(context, { strokeStyle: ink.value, lineWidth: +width.value, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...to);
    context.stroke();
    last = to;
    empty = false;
    send();
  }
  function send() {
    if (!empty) take(base64Of(downscaled(context, facts, fitted.checked)));
  }
  box.append(el("h2", {}, "draw here"), canvas, el("div", { className: "row", style: "margin-top:.6rem" },
    el("button", { onclick: () => { clear(); empty = true; } }, "clear"), el("label", {}, "brush", width),
    ...(facts.shape[0] === 3 ? [el("label", {}, "ink", ink)] : []),
    el("label", {}, fitted, "size and centre as in the data")));
  if (canTakePictures) {
    box.append(takesPictures(box, async (file) => {
      try { take((await fit(run, file)).x); fail(null); } catch (error) { fail(error); }
    }));
  }
}

// Average the drawing over the model's pixels; `fitted`: scaled to the extent that the data have, and
// moved until its centre of mass is the image's, as the digits of MNIST are.
function downscaled(context, facts, fitted) {
  const [channels, height, width] = facts.shape;
  const source = context.getImageData(0, 0, SIDE, SIDE).data;
  let box = [0, 0, SIDE, SIDE];
  if (fitted) {
    let [left, top, right, bottom, mass, across, down] = [SIDE, SIDE, 0, 0, 0, 0, 0];
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const value = source[4 * (y * SIDE + x)];
        if (value < 40) continue;
        [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x + 1), Math.min(top, y), Math.max(bottom, y + 1)];
        mass += value; across += value * (x + 0.5); down += value * (y + 0.5);
      }
    }
    if (mass) {
      const side = Math.max(right - left, bottom - top) / facts.extent;
      box = [across / mass - side / 2, down / mass - side / 2, side, side];
    }
  }
  const large = el("canvas", { width: width * 8, height: height * 8 }), middle = large.getContext("2d");
  middle.fillRect(0, 0, large.width, large.height);
  const [x, y, w, h] = box, sx = large.width / w, sy = large.height / h;
  middle.drawImage(context.canvas, -x * sx, -y * sy, SIDE * sx, SIDE * sy);
  const pixels = middle.getImageData(0, 0, large.width, large.height).data;
  const out = new Uint8Array(channels * height * width);
  for (let c = 0; c < channels; c++) {
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        let sum = 0;
        for (let a = 0; a < 8; a++) for (let b = 0; b < 8; b++) {
          sum += pixels[4 * ((row * 8 + a) * large.width + column * 8 + b) + c];
        }
        out[(c * height + row) * width + column] = Math.round(sum / 64);
      }
    }
  }
  return out;
}
