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
  const text = answer?.ok ? await answer.text() : "";
  const page = new DOMParser().parseFromString(text, "text/html");
  if (page.getElementById("stale")) {
    replace(document.getElementById("main"), page.getElementById("main"));
  } else {
    document.getElementById("stale").hidden = false; // or somebody else's page, such as a proxy's to log in
  }
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

/** Look again and again, each time some seconds after the last answer. */
async function keepUpToDate() {
  await refresh();
  setTimeout(keepUpToDate, REFRESH_MILLISECONDS);
}

showLocalTimes(document);
setTimeout(keepUpToDate, REFRESH_MILLISECONDS);
document.addEventListener("visibilitychange", refresh);
