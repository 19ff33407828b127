// Tabs, the choice of a run, and what changes once the model is calibrated.
import { ask } from "model";
import { compareView } from "compare";
import { dialsView } from "dials";
import { drawView } from "draw";
import { mapView } from "map";
import { el, fail, Samples } from "view";
import { walkView } from "walk";

const told = JSON.parse(document.getElementById("told").textContent);
const VIEWS = { map: mapView, walk: walkView, draw: drawView, dials: dialsView, compare: compareView };
const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
let app, shown, current = "map";

// A class's colour half way to white, for dark grounds.
const lighter = (color) => "#" + [1, 3, 5].map((k) =>
  Math.round((parseInt(color.slice(k, k + 2), 16) + 200) / 1.8).toString(16).padStart(2, "0")).join("");

async function open(run) {
  const all = await Promise.all([...Array(told.runs).keys()].map((k) => ask(k, "facts")));
  if (dark.matches) all.forEach((each) => { each.colors = each.colors.map(lighter); });
  const facts = all[run];
  const pictures = new Samples(facts, (await ask(run, "pictures")).x);
  const { label } = await ask(run, "points");
  const other = label.findIndex((each) => each !== label[0]);
  app = { run, all, facts, pictures, other: other < 0 ? 1 : other };
  shown = {};
  const beta = facts.beta === null ? "" : `, β̃ = ${facts.beta}`;
  byId("title").textContent = `${facts.system} on ${facts.data}`;
  byId("facts").textContent = `${facts.run}${beta} · ${facts.samples} test samples · ${facts.dimensions} latent dimensions`
    + (facts.density ? "" : " · no density");
  document.title = `${facts.system} on ${facts.data} – flowclf explore`;
  const names = Object.keys(VIEWS).map((name) => name === "draw" && facts.features ? "dial" : name);
  byId("tabs").replaceChildren(...Object.keys(VIEWS).map((name, k) => el("button", { role: "tab", id: `tab-${name}`,
    "aria-controls": `panel-${name}`, onclick: () => show(name), onkeydown: (event) => move(event, k) }, names[k])));
  byId("panels").replaceChildren(...Object.keys(VIEWS).map((name) =>
    el("section", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, hidden: true })));
  show(current);
  wait(run).catch(fail);
}

function show(name) {
  current = name;
  fail(null);
  for (const each of Object.keys(VIEWS)) {
    byId(`panel-${each}`).hidden = each !== name;
    byId(`tab-${each}`).setAttribute("aria-selected", each === name);
    byId(`tab-${each}`).tabIndex = each === name ? 0 : -1;
  }
  if (name in shown) shown[name].shown();
  else shown[name] = VIEWS[name](byId(`panel-${name}`), app);
  if (app.state?.ready) shown[name].state(app.state);
}

function move(event, k) {
  const names = Object.keys(VIEWS), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const name = names[(k + step + names.length) % names.length];
  show(name);
  byId(`tab-${name}`).focus();
}

async function wait(run) {
  while (app.run === run) {
    const state = app.state = await ask(run, "state");
    byId("state").textContent = state.note;
    if (state.ready) { Object.values(shown).forEach((view) => view.state(state)); return; }
    await new Promise((done) => setTimeout(done, 700));
  }
}

const choose = byId("run");
choose.addEventListener("change", () => open(+choose.value).catch(fail));
dark.addEventListener("change", () => open(app.run).catch(fail));
open(0).then(() => {
  byId("choose-run").hidden = told.runs < 2;
  choose.replaceChildren(...app.all.map((each, k) => el("option", { value: k }, each.run)));
}).catch(fail);
