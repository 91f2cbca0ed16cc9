-- What every page of perilune.page carries: its style and its script.

local css = [[
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 100rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p { max-width: 48rem; } section { margin: 1rem 0; overflow-x: auto; }
pre, table, #told { font: 13px/1.4 ui-monospace, monospace; }
pre { white-space: pre-wrap; background: var(--soft); padding: .6rem; }
table { border-collapse: separate; border-spacing: 1px; }
caption { text-align: left; font: 600 14px system-ui, sans-serif; padding-bottom: .3rem; }
th { font-weight: normal; text-align: right; padding: 0 .4rem; white-space: pre; max-width: 16rem;
  overflow: hidden; text-overflow: ellipsis; }
thead th { text-align: center; padding: 0 .1rem; }
thead th.long { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; vertical-align: bottom;
  max-height: 9rem; }
td { min-width: 1.5rem; height: 1.5rem; padding: 0 .25rem; text-align: right; }
td.on:hover, td.chosen { outline: 2px solid currentColor; outline-offset: -1px; }
.click td.on { cursor: pointer; }
canvas { image-rendering: pixelated; cursor: pointer; display: block; border: 1px solid var(--line); }
canvas.chosen { border-color: #e69f00; box-shadow: 0 0 0 2px #e69f00; }
.tiles { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.grid td { min-width: 0; height: auto; padding: 1px; }
.large { position: sticky; top: 1rem; }
.large td { min-width: 1.1rem; height: 1.1rem; line-height: 1; padding: 0 .1rem; }
button { font: inherit; margin: 0 .3rem .5rem 0; padding: .1rem .6rem; }
button[aria-pressed=true] { font-weight: bold; outline: 2px solid #0072b2; }
.bar { display: inline-block; height: .8rem; }
.legend { display: inline-block; width: 10rem; height: .7rem; margin: 0 .4rem; }
#told { position: fixed; z-index: 2; pointer-events: none; background: #111; color: #fff; padding: .3rem .5rem;
  border-radius: .3rem; white-space: pre-line; max-width: 30rem; }
]]

local js = [[
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const told = document.getElementById("told");

// -- small things ---------------------------------------------------------------------------------

function make(name, parent, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  if (parent) parent.append(element);
  return element;
}
function rgb(x, low, high, diverging) {
  const list = diverging ? data.two_sided : data.rising;
  const at = Math.max(0, Math.min(1, (x - low) / (high - low || 1))) * (list.length - 1);
  const i = Math.min(list.length - 2, Math.floor(at)), t = at - i;
  return list[i].map((a, k) => Math.round(a + t * (list[i + 1][k] - a)));
}
function paint(cell, colour) {
  const [r, g, b] = colour;
  cell.style.background = `rgb(${r},${g},${b})`;
  cell.style.color = 0.3 * r + 0.59 * g + 0.11 * b > 128 ? "#000" : "#fff";
}
function shown(x, decimals) { return x === null ? "" : x.toFixed(decimals).replace(/^-(0\.?0*)$/, "$1"); }
function tell(event, text) {
  told.textContent = text;
  told.hidden = !text;
  const x = Math.min(event.clientX + 14, window.innerWidth - told.offsetWidth - 8);
  const y = Math.min(event.clientY + 14, window.innerHeight - told.offsetHeight - 8);
  told.style.left = x + "px";
  told.style.top = y + "px";
}
function onPointer(element, textOf) {
  element.addEventListener("mousemove", event => tell(event, textOf(event) || ""));
  element.addEventListener("mouseleave", event => tell(event, ""));
}
function place(name, label) { return name ? name + " " + label : label; }
function legend(parent, view) {
  const line = make("div", parent);
  make("span", line, shown(view.low, view.decimals));
  const bar = make("span", line, undefined, "legend");
  const colours = [...Array(11).keys()].map(i =>
    "rgb(" + rgb(view.low + i / 10 * (view.high - view.low), view.low, view.high, view.diverging) + ")");
  bar.style.background = "linear-gradient(to right," + colours + ")";
  make("span", line, shown(view.high, view.decimals));
}

// -- one map, as a table --------------------------------------------------------------------------

function table(parent, part, view, onClick) {
  const map = make("table", parent, undefined, onClick ? "click" : "");
  if (part.title) make("caption", map, part.title);
  const head = make("tr", make("thead", map));
  make("th", head);
  const long = part.columns.some(label => label.length > 8) || part.columns.length > 12 && part.upright;
  for (const label of part.columns) make("th", head, label, long ? "long" : "");
  const body = make("tbody", map);
  view.values.forEach((row, i) => {
    const line = make("tr", body);
    make("th", line, part.rows[i]);
    row.forEach((x, j) => {
      const text = view.texts ? view.texts[i][j] : view.numbers ? shown(x, view.decimals) : "";
      const cell = make("td", line, text, x === null ? "" : "on");
      if (x === null) return;
      cell.dataset.at = i + "," + j;
      if (view.texts) cell.style.textAlign = "left";
      paint(cell, rgb(x, view.low, view.high, view.diverging));
    });
  });
  const placeOf = event => event.target.dataset.at ? event.target.dataset.at.split(",").map(Number) : null;
  onPointer(map, event => {
    const at = placeOf(event);
    if (!at) return "";
    const [i, j] = at, note = part.notes && part.notes[i] ? part.notes[i][j] : "";
    return place(part.row_name, part.rows[i]) + "\n" + place(part.column_name, part.columns[j]) + "\n" +
      (view.name ? view.name + ": " : "") + view.values[i][j].toPrecision(4) + (note ? "\n" + note : "");
  });
  if (onClick) map.addEventListener("click", event => {
    const at = placeOf(event);
    if (at) onClick(at[0], at[1], event.target);
  });
  return map;
}

// -- parts ----------------------------------------------------------------------------------------

function bars(parent, part, i, j) {
  const values = part.details[i][j];
  parent.replaceChildren();
  const map = make("table", parent);
  make("caption", map, [part.detail_title, place(part.row_name, part.rows[i]),
    place(part.column_name, part.columns[j])].filter(Boolean).join(" \u00b7 "));
  const most = Math.max(...values.map(Math.abs), 1e-9);
  values.forEach((x, k) => {
    const line = make("tr", map);
    make("th", line, part.detail_labels[k]);
    make("td", line, x.toFixed(3));
    const bar = make("span", make("td", line), undefined, "bar");
    bar.parentElement.style.textAlign = "left";
    bar.style.width = 16 * Math.abs(x) / most + "rem";
    bar.style.background = x < 0 ? "#0072b2" : "#d55e00";
  });
}

function heat(section, part) {
  const buttons = make("div", section), maps = make("div", section, undefined, "tiles");
  const left = make("div", maps), right = make("div", maps);
  let chosen = [part.views[0].values.length - 1, part.views[0].values[0].length - 1];
  const hasDetails = part.details.length > 0;
  function mark() {
    left.querySelectorAll(".chosen").forEach(cell => cell.classList.remove("chosen"));
    const cell = left.querySelector(`[data-at="${chosen}"]`);
    if (cell) cell.classList.add("chosen");
    bars(right, part, chosen[0], chosen[1]);
  }
  function show(k) {
    left.replaceChildren();
    [...buttons.children].forEach((button, i) => button.setAttribute("aria-pressed", i === k));
    table(left, part, part.views[k], hasDetails ? (i, j) => { chosen = [i, j]; mark(); } : null);
    legend(left, part.views[k]);
    if (hasDetails) mark();
  }
  if (part.views.length > 1) part.views.forEach((view, k) => {
    make("button", buttons, view.name).addEventListener("click", () => show(k));
  });
  show(0);
}

// Small maps brighten with the square root: weights of a few hundredths are seen.
function tile(parent, part, values, width) {
  const canvas = make("canvas", parent), rows = values.length, columns = Math.max(...values.map(row => row.length), 1);
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.width = width + "px";
  canvas.style.height = width * rows / columns + "px";
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  values.forEach((row, i) => row.forEach((x, j) => {
    if (x === null) return;
    image.data.set([...rgb(Math.sqrt(Math.max(x, 0) / part.high), 0, 1, false), 255], 4 * (i * columns + j));
  }));
  context.putImageData(image, 0, 0);
  onPointer(canvas, event => {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top) / box.height * rows);
    const j = Math.floor((event.clientX - box.left) / box.width * columns);
    const x = values[i] ? values[i][j] : undefined;
    if (x === undefined || x === null) return canvas.title_text;
    return canvas.title_text + "\n" + place(part.row_name, part.labels[i]) + "\n" +
      place(part.column_name, part.labels[j]) + "\n" + x.toPrecision(3);
  });
  return canvas;
}

function tiles(section, part) {
  const both = make("div", section, undefined, "tiles");
  const grid = make("table", both, undefined, "grid"), large = make("div", both, undefined, "large");
  if (part.title) make("caption", grid, part.title);
  const head = make("tr", make("thead", grid));
  make("th", head);
  for (const label of part.columns) make("th", head, label);
  const most = Math.max(...part.maps.map(row => row.length)), width = Math.max(44, Math.min(100, 620 / most));
  let last = null;
  function choose(canvas, i, j) {
    if (last) last.classList.remove("chosen");
    last = canvas;
    canvas.classList.add("chosen");
    large.replaceChildren();
    const labels = part.labels.map((label, k) => k + " " + label);
    table(large, { title: canvas.title_text, rows: labels, columns: labels, row_name: part.row_name,
      column_name: part.column_name, upright: true }, { values: part.maps[i][j], low: 0, high: part.high, decimals: 2,
      numbers: part.labels.length <= 16, name: "" });
    legend(large, { low: 0, high: part.high, decimals: 2, diverging: false });
  }
  part.maps.forEach((row, i) => {
    const line = make("tr", grid);
    make("th", line, part.rows[i]);
    row.forEach((values, j) => {
      const canvas = tile(make("td", line), part, values, width);
      canvas.title_text = part.rows[i] + ", " + part.columns[j];
      canvas.addEventListener("click", () => choose(canvas, i, j));
      if (!last) choose(canvas, i, j);
    });
  });
}

document.querySelectorAll("section[data-part]").forEach(section => {
  const part = data.parts[Number(section.dataset.part)];
  if (part.kind === "heat") heat(section, part); else tiles(section, part);
});
]]

return { css = css, js = js }
