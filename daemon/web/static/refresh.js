"use strict";
// Fetches the page again and swaps the list. Rows never move under a pointer that rests on a button, and a list that
// could not be refreshed says how old it is.
const EVERY = 5000;
const STALE_AFTER = 16000;
let freshAt = performance.now();
let isRunning = false;

async function refresh() {
  if (isRunning || document.hidden || document.querySelector("#live button:hover, #live button:active")) return;
  isRunning = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(EVERY * 2) });
    if (answer.ok) swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    // The note of tell() is what there is to say.
  } finally {
    isRunning = false;
  }
}

function swap(next) {
  const live = next.getElementById("live");
  if (!live || document.querySelector("#live button:hover, #live button:active")) return;
  const focused = document.activeElement && document.activeElement.id;
  document.getElementById("live").replaceWith(document.adoptNode(live));
  document.title = next.title;
  if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
  freshAt = performance.now();
}

function tell() {
  const age = performance.now() - freshAt;
  const stale = document.getElementById("stale");
  stale.hidden = age < STALE_AFTER;
  if (!stale.hidden) stale.textContent = `This list is ${Math.round(age / 1000)} s old: it could not be refreshed.`;
}

setInterval(refresh, EVERY);
setInterval(tell, 1000);
document.addEventListener("visibilitychange", refresh);
