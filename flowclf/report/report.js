"use strict";

// Tables sort by a click on a heading: numbers as numbers, what is missing always last. The first
// click brings the best to the top where a heading says which direction that is.

function compare(a, b) {
  const x = Number(a), y = Number(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x === y ? 0 : x - y;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortRows(table, column, direction) {
  const body = table.tBodies[0];
  const sign = direction === "ascending" ? 1 : -1;
  const key = (row) => row.cells[column].dataset.sort;
  const rows = Array.from(body.rows).sort((a, b) => {
    const x = key(a), y = key(b);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * compare(x, y);
  });
  body.append(...rows);
}

function onClick(table, heading) {
  const other = { ascending: "descending", descending: "ascending" };
  const before = heading.getAttribute("aria-sort");
  const direction = other[before] || heading.dataset.first || "ascending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  sortRows(table, heading.cellIndex, direction);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => onClick(table, heading));
  }
}

// A run that is pointed at, or has the focus, is lit up in every chart and in the table.
function light(event, on) {
  const found = event.target.closest?.("[data-run]");
  if (!found) return;
  for (const each of document.querySelectorAll(`[data-run="${found.dataset.run}"]`)) {
    each.classList.toggle("lit", on);
  }
}

for (const [kind, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
  document.addEventListener(kind, (event) => light(event, on));
}

// A link to a run opens it.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

window.addEventListener("hashchange", openTarget);
openTarget();
