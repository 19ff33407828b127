// What all views share: elements, samples on canvases, posterior bars, verdicts.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function choice(label, options, onchange) {
  const select = el("select", { onchange: () => onchange?.(select.value) },
    ...options.map(([value, text]) => el("option", { value }, text)));
  return [el("label", {}, label, select), select];
}

export function fail(error) {
  const place = document.getElementById("error");
  place.hidden = !error;
  place.textContent = error ? error.message ?? String(error) : "";
}

// Call with the latest arguments only: one at a time, what comes in between is dropped.
export function latest(work) {
  let busy = false, next = null;
  return async function run(...given) {
    if (busy) { next = given; return; }
    busy = true;
    try { await work(...given); fail(null); } catch (error) { fail(error); }
    busy = false;
    if (next) { const following = next; next = null; run(...following); }
  };
}

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

export function base64Of(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

// Samples as they travel: base64 of bytes (N, C, H, W), or rows of numbers.
export class Samples {
  constructor(facts, packed) {
    this.facts = facts;
    this.rows = facts.features ? packed : null;
    this.bytes = facts.features ? null : bytesOf(packed);
    this.size = facts.shape.reduce((a, b) => a * b, 1);
    this.length = this.rows ? this.rows.length : this.bytes.length / this.size;
  }

  // One of them in the form of a place: {x: …}.
  at(k) {
    return this.rows ? this.rows[k] : base64Of(this.bytes.subarray(k * this.size, (k + 1) * this.size));
  }

  pixels(k) {
    const [channels, height, width] = this.facts.shape, plane = height * width;
    const image = new ImageData(width, height);
    for (let p = 0; p < plane; p++) {
      for (let c = 0; c < 3; c++) {
        image.data[4 * p + c] = this.bytes[k * this.size + (channels === 3 ? c : 0) * plane + p];
      }
      image.data[4 * p + 3] = 255;
    }
    return image;
  }

  paint(canvas, k) {
    if (this.rows) { paintRow(canvas, this.rows[k], this.facts.features); return; }
    const [, height, width] = this.facts.shape;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.getContext("2d").putImageData(this.pixels(k), 0, 0);
  }

  canvas(k, name = "sample") {
    const made = el("canvas", { className: this.rows ? "table-row" : "pixels picture", role: "img", ariaLabel: name });
    this.paint(made, k);
    return made;
  }

  // Tiles of images, `columns` a row; those of `marked` numbers are framed.
  grid(canvas, columns, order = [...Array(this.length).keys()], marked = new Set()) {
    if (this.rows) { this.heat(canvas, order); return; }
    const [, height, width] = this.facts.shape, gap = 1, scale = Math.max(1, Math.round(56 / width));
    const rows = Math.ceil(order.length / columns);
    canvas.width = columns * (width * scale + gap) - gap;
    canvas.height = rows * (height * scale + gap) - gap;
    const tile = el("canvas"), context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    order.forEach((k, place) => {
      this.paint(tile, k);
      const x = (place % columns) * (width * scale + gap), y = Math.floor(place / columns) * (height * scale + gap);
      context.drawImage(tile, x, y, width * scale, height * scale);
      if (marked.has(k)) {
        context.strokeStyle = "#ff5a4d";
        context.lineWidth = 2;
        context.strokeRect(x + 1, y + 1, width * scale - 2, height * scale - 2);
      }
    });
  }

  // Rows of a table as a picture: a row a sample, a column a feature, blue below and red above.
  heat(canvas, order) {
    const features = this.facts.features, side = 12;
    canvas.width = features.length * side;
    canvas.height = order.length * side;
    canvas.style.maxWidth = `${3 * canvas.width}px`;
    const context = canvas.getContext("2d");
    order.forEach((k, y) => features.forEach((feature, x) => {
      context.fillStyle = diverging((this.rows[k][feature.column] - feature.middle) / (2 * feature.std || 1));
      context.fillRect(x * side, y * side, side, side);
    }));
  }
}

function paintRow(canvas, row, features) {
  const height = 14, width = 260, names = 120;
  Object.assign(canvas, { width, height: height * features.length });
  const context = canvas.getContext("2d"), style = getComputedStyle(document.body);
  context.font = "10px sans-serif";
  features.forEach((feature, k) => {
    const share = Math.max(-1, Math.min(1, (row[feature.column] - feature.middle) / (3 * feature.std || 1)));
    const y = k * height, middle = names + (width - names) / 2;
    context.fillStyle = style.color;
    context.fillText(feature.name.slice(0, 20), 0, y + 10, names - 6);
    context.fillStyle = diverging(share);
    context.fillRect(Math.min(middle, middle + share * (width - names) / 2), y + 2, Math.abs(share) * (width - names) / 2, height - 4);
    context.fillStyle = style.color;
    context.fillRect(middle, y, 1, height);
  });
}

// Blue for -1, red for 1, transparent for 0: it stands on either ground.
export function diverging(share) {
  const strength = Math.min(1, Math.abs(share));
  return share < 0 ? `rgb(33 102 172 / ${strength})` : `rgb(200 40 50 / ${strength})`;
}

// Bars of the posterior, of the ten most probable classes where there are more; returns their update.
export function posteriorBars(place, facts) {
  const shown = Math.min(10, facts.classes.length), bars = [];
  const box = el("div", { className: "bars", role: "img" });
  for (let k = 0; k < shown; k++) {
    const name = el("span", {}, facts.classes[k]), value = el("span", { className: "value" });
    const bar = el("div"), track = el("div", { className: "track" }, bar);
    bar.style.background = facts.colors[k];
    box.append(name, track, value);
    bars.push([name, bar, value]);
  }
  place.append(box);
  return (posterior) => {
    const order = [...posterior.keys()];
    if (posterior.length > shown) order.sort((a, b) => posterior[b] - posterior[a]);
    bars.forEach(([name, bar, value], place) => {
      const k = order[place], p = posterior[k];
      name.textContent = facts.classes[k];
      bar.style.width = `${100 * p}%`;
      bar.style.background = facts.colors[k];
      value.textContent = `${(100 * p).toFixed(1)} %`;
    });
    const best = posterior.indexOf(Math.max(...posterior));
    box.ariaLabel = `posterior: ${facts.classes[best]} ${(100 * posterior[best]).toFixed(1)} percent`;
  };
}

const MARK = { accept: "accept", ambiguous: "ambiguous", "never seen": "never" };

// One line: class, probability, decision, set, p-value, bits.
export function verdict(place, told, k, facts) {
  const posterior = told.posterior[k], best = posterior.indexOf(Math.max(...posterior));
  place.className = "verdict";
  place.replaceChildren(`${facts.classes[best]} · ${(100 * posterior[best]).toFixed(1)} %`);
  if (told.decision) {
    const set = told.sets[k].map((each) => facts.classes[each]).join(", ");
    place.append(" · ", el("span", { className: MARK[told.decision[k]] }, told.decision[k]),
      ` · set {${set}} · p = ${told.p_value[k].toPrecision(2)}`);
  }
  if (told.bits_per_dim) place.append(` · ${told.bits_per_dim[k]?.toFixed(3) ?? "∞"} bits/dim`);
}

export function download(name, href) {
  el("a", { download: name, href }).click();
}

// Take pictures that are dropped on an element, or chosen from a file input within it.
export function takesPictures(element, take) {
  const stop = (event) => { event.preventDefault(); element.classList.toggle("drop", event.type === "dragover"); };
  element.addEventListener("dragover", stop);
  element.addEventListener("dragleave", stop);
  element.addEventListener("drop", (event) => {
    stop(event);
    const file = event.dataTransfer.files[0];
    if (file) take(file);
  });
  const input = el("input", { type: "file", accept: "image/png,image/jpeg,image/bmp",
    onchange: () => input.files[0] && take(input.files[0]) });
  return el("label", {}, "or\u00a0a\u00a0picture", input);
}
