// The worklist stays up to date, and can be used without a mouse.

import { showLocalTimes } from "./times.js";

const REFRESH_MILLISECONDS = 5000;

const results = document.getElementById("results");
let tag = results.dataset.tag;

/** Fetch the list as it is now, and put it in the place of the one that is shown; focus and scrolling stay. */
async function refresh() {
  if (document.hidden || results.dataset.live !== "yes") return;
  const headers = { "X-Fragment": "results", "If-None-Match": tag };
  let answer = null;
  try {
    answer = await fetch(location.href, { headers, cache: "no-store" });
  } catch {
    // nobody is there: said below
  }
  if (answer?.status === 503) location.reload(); // the page that says why, and comes back by itself
  // An answer without a tag is somebody else's, such as a proxy's page to log in.
  const isOurs = answer?.status === 304 || (answer?.ok && answer.headers.has("ETag"));
  document.getElementById("stale").hidden = isOurs;
  if (!isOurs || answer.status === 304) return;
  tag = answer.headers.get("ETag");
  replace(await answer.text());
}

/** Links that do not go with a row: tabs, export, headings, pages. */
const linksBesideRows = () => [...results.querySelectorAll("a:not(.open)")];

function replace(list) {
  const focused = document.activeElement?.closest("tr[data-result]")?.dataset.result;
  const besideRows = linksBesideRows().indexOf(document.activeElement);
  const scrolled = results.querySelector(".scroll").scrollLeft;
  const known = new Set([...results.querySelectorAll("tr[data-result]")].map((row) => row.dataset.result));
  results.replaceChildren(...new DOMParser().parseFromString(list, "text/html").body.childNodes);
  for (const row of results.querySelectorAll("tr[data-result]")) {
    if (!known.has(row.dataset.result)) row.classList.add("new");
  }
  showLocalTimes(results);
  results.querySelector(".scroll").scrollLeft = scrolled;
  const row = results.querySelector(`tr[data-result="${focused}"] .open`);
  (row ?? linksBesideRows()[besideRows])?.focus({ preventScroll: true });
}

/** Move the focus to the next or the previous row; the first, if no row has it. */
function move(step) {
  const links = [...results.querySelectorAll(".open")];
  const at = links.indexOf(document.activeElement);
  const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), links.length - 1);
  links[next]?.focus();
  links[next]?.scrollIntoView({ block: "nearest" });
}

const KEYS = {
  j: () => move(1),
  ArrowDown: () => move(1),
  k: () => move(-1),
  ArrowUp: () => move(-1),
  n: () => results.querySelector("[rel=next]")?.click(),
  p: () => results.querySelector("[rel=prev]")?.click(),
  "/": () => document.querySelector("[data-key='/']")?.focus(),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, textarea");
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

/** Look again and again, each time some seconds after the last answer. */
async function keepUpToDate() {
  await refresh();
  setTimeout(keepUpToDate, REFRESH_MILLISECONDS);
}

showLocalTimes(document);
setTimeout(keepUpToDate, REFRESH_MILLISECONDS);
