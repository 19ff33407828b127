// The map: test samples in a plane of latent space; every point of it can be decoded.
import { ask } from "model";
import { choice, el, latest, posteriorBars, Samples, verdict } from "view";

export function mapView(panel, app) {
  const { facts, run, pictures } = app;
  const canvas = el("canvas", { className: "map", tabIndex: 0, role: "application",
    ariaLabel: "map of latent space: arrow keys move the point that is decoded, + and - zoom" });
  const tip = el("div", { className: "tip", hidden: true }), tipName = el("div");
  const tipPicture = pictures.canvas(0), picture = pictures.canvas(0, "decoded point");
  tip.append(tipPicture, tipName);
  const line = el("p", { className: "verdict", ariaLive: "polite" });
  const style = el("p", { className: "hint" });
  const side = el("div", { className: "card" }, el("h2", {}, facts.decodes ? "decoded point" : "nearest test sample"),
    picture, line);
  const bars = posteriorBars(side, facts);
  side.append(style, el("button", { onclick: () => { base = null; note(); probe(); } }, "style: none"),
    el("p", { className: "hint" }, "Drag to decode; shift and drag, or two fingers, to move; wheel to zoom. A click on a "
      + "sample takes everything that leaves the plane, its style, from it. Crosses are class means, ellipses two "
      + "standard deviations."));
  let data = null, view = { x: 0, y: 0, scale: 1 }, at = [0, 0], base = null, pValues = null;
  const [planeLabel, plane] = choice("plane", [["means", "of the class means"], ["principal", "principal components"],
    ["dimensions", "two dimensions"]], () => load());
  const first = number(0), second = number(1);
  const [colorLabel, color] = choice("colour", [["label", "class"], ["predicted", "predicted class"],
    ["mistake", "mistakes"], ["p_value", "p-value"], ["bits_per_dim", "bits/dim"]], () => redraw());
  const dims = el("span", { hidden: true }, first, " ", second);
  panel.append(el("div", { className: "row" }, planeLabel, dims, colorLabel,
    el("button", { onclick: () => { reset(); redraw(); } }, "whole map")),
    el("div", { className: "columns" }, el("div", { className: "above" }, canvas, tip), side));

  function number(value) {
    return el("input", { type: "number", min: 0, max: facts.dimensions - 1, value, ariaLabel: "dimension",
      onchange: () => load() });
  }

  const load = latest(async () => {
    dims.hidden = plane.value !== "dimensions";
    data = await ask(run, "points", { plane: plane.value, dimensions: [+first.value, +second.value] });
    reset();
    redraw();
    probe();
  });
  const probe = latest(async () => {
    const told = await ask(run, "decode", base === null ? { at } : { at, sample: base });
    new Samples(facts, told.x).paint(picture, 0);
    bars(told.posterior[0]);
    verdict(line, told, 0, facts);
    panel.dataset.frames = +(panel.dataset.frames ?? 0) + 1;
  });

  function note() {
    style.textContent = base === null ? "" : `style of sample ${base} (${facts.classes[data.label[base]]})`;
  }

  function reset() {
    const all = [...data.at, ...data.means], xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = 0.92 * Math.min(width / (right - left || 1), height / (high - low || 1));
    view = { scale, x: width / 2 - scale * (left + right) / 2, y: height / 2 + scale * (low + high) / 2 };
    at = [(left + right) / 2, (low + high) / 2];
  }
  const toScreen = ([x, y]) => [view.x + view.scale * x, view.y - view.scale * y];
  const toMap = (x, y) => [(x - view.x) / view.scale, (view.y - y) / view.scale];

  function shade(k) {
    const wrong = data.label[k] !== data.predicted[k];
    if (color.value === "label" || color.value === "predicted") return facts.colors[data[color.value][k]];
    if (color.value === "mistake") return wrong ? "#e0392b" : "#8a93a3";
    if (color.value === "p_value") return pValues ? ramp(Math.sqrt(pValues[k])) : "#8a93a3";
    return data.bits_per_dim ? ramp(1 - rank[k]) : "#8a93a3";
  }
  let rank = [];
  const ramp = (share) => `hsl(${250 - 190 * (1 - share)} 75% ${38 + 22 * (1 - share)}%)`;

  // Samples and means, which stay while a point is dragged.
  const still = el("canvas");
  function redraw() {
    if (!data) return;
    if (data.bits_per_dim && !rank.length) {
      const order = [...data.bits_per_dim.keys()].sort((a, b) => data.bits_per_dim[a] - data.bits_per_dim[b]);
      order.forEach((k, place) => { rank[k] = place / order.length; });
    }
    const ratio = devicePixelRatio, { clientWidth: width, clientHeight: height } = canvas;
    Object.assign(still, { width: width * ratio, height: height * ratio });
    const context = still.getContext("2d"), ink = getComputedStyle(document.body);
    context.scale(ratio, ratio);
    context.globalAlpha = 0.75;
    const late = color.value === "mistake" ? (k) => data.label[k] !== data.predicted[k] : () => false;
    for (const pass of [false, true]) {
      data.at.forEach((point, k) => {
        if (late(k) !== pass) return;
        const [x, y] = toScreen(point);
        context.fillStyle = shade(k);
        context.beginPath();
        context.arc(x, y, pass ? 4 : 2.6, 0, 7);
        context.fill();
      });
    }
    context.globalAlpha = 1;
    context.font = "12px sans-serif";
    context.textBaseline = "middle";
    data.means.forEach((mean, k) => {
      const [x, y] = toScreen(mean), [width, height, angle] = data.ellipses[k];
      context.strokeStyle = facts.colors[k];
      context.lineWidth = 1.2;
      if (width !== null) {
        context.beginPath();
        context.ellipse(x, y, width * view.scale, height * view.scale, -angle, 0, 7);
        context.stroke();
      }
      context.lineWidth = 3;
      context.beginPath();
      context.moveTo(x - 5, y - 5); context.lineTo(x + 5, y + 5);
      context.moveTo(x - 5, y + 5); context.lineTo(x + 5, y - 5);
      context.stroke();
      context.lineWidth = 4;
      context.strokeStyle = ink.backgroundColor;
      context.strokeText(facts.classes[k], x + 9, y);
      context.fillStyle = ink.color;
      context.fillText(facts.classes[k], x + 9, y);
    });
    draw();
  }

  let asked = false;
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; if (data && still.width) paint(); });
  }
  function paint() {
    if (canvas.width !== still.width || canvas.height !== still.height) {
      Object.assign(canvas, { width: still.width, height: still.height });
    }
    const context = canvas.getContext("2d"), ink = getComputedStyle(document.body);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(still, 0, 0);
    context.scale(devicePixelRatio, devicePixelRatio);
    const [x, y] = toScreen(at);
    context.strokeStyle = ink.color;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, y, 8, 0, 7);
    context.moveTo(x - 13, y); context.lineTo(x - 4, y); context.moveTo(x + 4, y); context.lineTo(x + 13, y);
    context.moveTo(x, y - 13); context.lineTo(x, y - 4); context.moveTo(x, y + 4); context.lineTo(x, y + 13);
    context.stroke();
  }

  function nearest(x, y, reach) {
    let best = null, least = reach * reach;
    data?.at.forEach((point, k) => {
      const [a, b] = toScreen(point), distance = (a - x) ** 2 + (b - y) ** 2;
      if (distance < least) { least = distance; best = k; }
    });
    return best;
  }

  function zoom(factor, x, y) {
    view = { scale: view.scale * factor, x: x + (view.x - x) * factor, y: y + (view.y - y) * factor };
    redraw();
  }
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (event.shiftKey || fingers.size > 1) return;
    const hit = nearest(event.offsetX, event.offsetY, 5);
    if (hit !== null) { base = hit; note(); }
    at = toMap(event.offsetX, event.offsetY);
    draw();
    probe();
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = [event.offsetX, event.offsetY], before = fingers.get(event.pointerId);
    const hit = before ? null : nearest(x, y, 8);
    tip.hidden = hit === null;
    if (hit !== null) {
      pictures.paint(tipPicture, hit);
      const p = pValues ? `, p = ${pValues[hit].toPrecision(2)}` : "";
      const said = data.predicted[hit] === data.label[hit] ? "" : `, taken for ${facts.classes[data.predicted[hit]]}`;
      tipName.textContent = `${hit}: ${facts.classes[data.label[hit]]}${said}${p}`;
      tip.style.left = `${Math.min(x + 14, canvas.clientWidth - 110)}px`;
      tip.style.top = `${Math.min(y + 14, canvas.clientHeight - 120)}px`;
    }
    if (!before) return;
    fingers.set(event.pointerId, [x, y]);
    if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const length = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      zoom(length([x, y]) / (length(before) || 1), other[0], other[1]);
    } else if (event.shiftKey) {
      view.x += x - before[0];
      view.y += y - before[1];
      redraw();
    } else {
      at = toMap(x, y);
      draw();
      probe();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 12 / view.scale;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    if (event.key in moves) {
      at = at.map((value, k) => value + moves[event.key][k]);
      draw();
      probe();
    } else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.25 : 0.8, ...middle);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => { if (data && canvas.clientWidth) { reset(); redraw(); } }).observe(canvas);
  load();
  return { state: (state) => { pValues = state.p_value; redraw(); }, shown: () => redraw() };
}
