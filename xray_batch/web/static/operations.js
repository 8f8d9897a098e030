// The operations page stays up to date without a reload; what is open stays open.

import { showLocalTimes } from "./times.js";

const REFRESH_MILLISECONDS = 10_000;

/** Fetch the page as it is now, and put its content in the place of what is shown. */
async function refresh() {
  if (document.hidden) return;
  let answer = null;
  try {
    answer = await fetch(location.href, { cache: "no-store" });
  } catch {
    // nobody is there: said below
  }
  if (answer?.status === 503) location.reload(); // the page that says why, and comes back by itself
  const stale = document.getElementById("stale");
  if (!answer?.ok) {
    stale.hidden = false;
    return;
  }
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
  replace(document.getElementById("main"), fresh);
}

function replace(shown, fresh) {
  const open = [...shown.querySelectorAll("details[open]")].map((details) => details.id);
  const focused = [...shown.querySelectorAll("a, summary, [tabindex]")].indexOf(document.activeElement);
  const scrolled = [...shown.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  for (const id of open) fresh.querySelector(`#${id}`)?.setAttribute("open", "");
  showLocalTimes(fresh);
  shown.replaceChildren(...fresh.childNodes);
  shown.querySelectorAll(".scroll").forEach((box, number) => (box.scrollLeft = scrolled[number] ?? 0));
  if (focused >= 0) [...shown.querySelectorAll("a, summary, [tabindex]")][focused]?.focus({ preventScroll: true });
}

showLocalTimes(document);
setInterval(refresh, REFRESH_MILLISECONDS);
document.addEventListener("visibilitychange", refresh);
