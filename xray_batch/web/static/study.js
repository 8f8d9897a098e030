// The study page: fetches the film and, when asked for, its heat map; buttons and keys.

import { showLocalTimes } from "./times.js";
import { Viewer, colorHeat } from "./viewer.js";

const PAN_STEP = 40; // CSS pixels
const ZOOM_STEP = 1.25;

const find = (id) => document.getElementById(id);
const section = document.querySelector(".viewer");
const address = `/results/${section.dataset.result}`;
const placeholder = find("placeholder");
const heatButton = find("heat");
const slider = find("opacity");
const canvas = find("film");
const percent = (share) => `${Math.round(100 * share)} %`;

const viewer = new Viewer(canvas, showState);

function showState(view) {
  find("view-state").textContent =
    `Window: width ${percent(view.width)}, centre ${percent(view.center)}. Zoom ${percent(view.zoom)}.` +
    (view.inverted ? " Inverted." : "");
  find("invert").setAttribute("aria-pressed", String(view.inverted));
}

/** Fetch something of the result; an Error says in words why there is none. */
async function fetchPart(part) {
  let answer;
  try {
    answer = await fetch(`${address}/${part}`, { cache: "no-store" });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (answer.ok) return answer;
  const isJson = answer.headers.get("Content-Type")?.startsWith("application/json");
  if (!isJson) throw new Error(`The server answers ${answer.status}.`);
  const { reason, is_passing: isPassing } = await answer.json();
  throw Object.assign(new Error(reason), { isPassing });
}

async function loadFilm() {
  try {
    const answer = await fetchPart("image");
    const number = (name) => Number(answer.headers.get(name));
    const [rows, columns] = [number("X-Rows"), number("X-Columns")];
    const content = answer.headers.get("X-Content").split(" ").map(Number);
    viewer.setFilm({ pixels: readPixels(await answer.arrayBuffer()), rows, columns, content });
    const isReduced = rows < number("X-Original-Rows");
    find("size").textContent =
      `${number("X-Original-Rows")} rows, ${number("X-Original-Columns")} columns` +
      (isReduced ? `, shown reduced to ${rows} and ${columns}.` : ".");
    placeholder.hidden = true;
    for (const button of section.querySelectorAll("button")) button.disabled = false;
    heatButton.disabled = Boolean(heatButton.dataset.obstacle);
    section.dataset.state = "shown";
  } catch (error) {
    placeholder.textContent = `No film: ${error.message}`;
    if (!heatButton.dataset.obstacle) refuseHeat(error.message);
    section.dataset.state = "absent";
  }
}

/** Little-endian 16-bit values, whatever this machine is. */
function readPixels(buffer) {
  const isLittle = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
  if (isLittle) return new Uint16Array(buffer);
  const view = new DataView(buffer);
  return Uint16Array.from({ length: buffer.byteLength / 2 }, (_, index) => view.getUint16(2 * index, true));
}

let heat = null; // the promise of a map, once it was asked for

async function toggleHeat() {
  if (heatButton.disabled) return;
  if (!heat) {
    heatButton.setAttribute("aria-busy", "true");
    find("heat-share").textContent = "The heat map is being made; the first takes some seconds.";
    heat = fetchPart("heat").then((answer) => answer.json());
  }
  try {
    placeHeat(await heat);
  } catch (error) {
    heat = null;
    find("heat-share").textContent = error.isPassing ? error.message : "";
    if (!error.isPassing) refuseHeat(error.message);
    return;
  } finally {
    heatButton.removeAttribute("aria-busy");
  }
  viewer.isHeatShown = !viewer.isHeatShown;
  heatButton.setAttribute("aria-pressed", String(viewer.isHeatShown));
  for (const id of ["legend", "heat-caption"]) find(id).hidden = !viewer.isHeatShown;
  slider.disabled = !viewer.isHeatShown;
  viewer.redraw();
}

let isPlaced = false;

function placeHeat(map) {
  if (isPlaced) return;
  isPlaced = true;
  const levels = Uint8Array.from(atob(map.levels), (letter) => letter.charCodeAt(0));
  viewer.setHeat(colorHeat(levels, map.rows, map.columns, map.colors), map.is_trimmed);
  find("heat-share").textContent =
    map.heat_in_thorax === null
      ? "No part of the film raises P(pneumonia)."
      : `${percent(map.heat_in_thorax)} of the heat lies in the middle of the film (spread evenly: ${percent(map.even_share)}).`;
  const legend = find("legend-colors").getContext("2d");
  const ramp = Uint8Array.from({ length: 256 }, (_, level) => level);
  legend.drawImage(colorHeat(ramp, 1, 256, map.colors), 0, 0, legend.canvas.width, legend.canvas.height);
}

function refuseHeat(reason) {
  heatButton.disabled = true;
  find("heat-note").textContent = `No heat map: ${reason}`;
}

function choose(tool) {
  viewer.tool = tool;
  canvas.classList.toggle("moves", tool === "pan");
  for (const name of ["window", "pan"]) find(`tool-${name}`).setAttribute("aria-pressed", String(name === tool));
}

const follow = (selector) => document.querySelector(selector)?.click();

const ACTIONS = {
  "tool-window": () => choose("window"),
  "tool-pan": () => choose("pan"),
  "zoom-in": () => viewer.zoomAt(ZOOM_STEP),
  "zoom-out": () => viewer.zoomAt(1 / ZOOM_STEP),
  invert: () => viewer.change({ inverted: !viewer.view.inverted }),
  reset: () => viewer.reset(),
  heat: toggleHeat,
};

const KEYS = {
  i: ACTIONS.invert,
  h: ACTIONS.heat,
  r: ACTIONS.reset,
  "+": ACTIONS["zoom-in"],
  "=": ACTIONS["zoom-in"],
  "-": ACTIONS["zoom-out"],
  u: () => follow("#back"),
  Escape: () => follow("#back"),
  p: () => follow(".study-nav [rel=prev]"),
  n: () => follow(".study-nav [rel=next]"),
};

const ARROWS = {
  ArrowLeft: () => viewer.pan(-PAN_STEP, 0),
  ArrowRight: () => viewer.pan(PAN_STEP, 0),
  ArrowUp: () => viewer.pan(0, -PAN_STEP),
  ArrowDown: () => viewer.pan(0, PAN_STEP),
};

for (const [id, act] of Object.entries(ACTIONS)) find(id).addEventListener("click", act);
slider.addEventListener("input", () => {
  viewer.opacity = slider.value / 100;
  viewer.redraw();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = KEYS[key] ?? (movesFilm(event.target) ? ARROWS[key] : undefined);
  if (!act) return;
  event.preventDefault();
  act();
});

/** Arrow keys are the slider's own, and scroll the page where something beside the film has the focus. */
function movesFilm(target) {
  return target !== slider && (section.contains(target) || target === document.body || target.id === "main");
}

showLocalTimes(document);
loadFilm();
