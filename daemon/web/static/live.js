// Keeps what is marked data-live as the server has it: fetched again when the server says that something has happened,
// now and then without that, and more often where it cannot say so. Focus and scroll stay; rows that are the same stay.
const TOLD_EVERY = 15000;
const UNTOLD_EVERY = 5000;
const STALE_AFTER = 24000;
const NEWS_SPREAD = 200;
const TROUBLE_FOR = 30000;
const SAID_FOR = 4000;
const IN_HAND = "[data-live] button:hover, [data-live] button:active";

let source = null;
let freshAt = performance.now();
let isRunning = false;
let isDue = false;
let trouble = { words: "", until: 0 };
const shown = new WeakMap();
document.querySelectorAll("[data-live] tbody tr").forEach((row) => shown.set(row, row.outerHTML));

export async function refresh() {
  isDue = true;
  if (isRunning || document.hidden || document.querySelector(IN_HAND)) return;
  isRunning = true;
  try {
    const headers = { "X-Refresh": "1" }; // nobody has asked: the same look goes on
    const answer = await fetch(location.href, { headers, cache: "no-store", signal: AbortSignal.timeout(UNTOLD_EVERY * 2) });
    if (answer.redirected && isSignIn(answer.url)) location.assign(answer.url); // nobody reads names who may no longer
    else if (answer.ok) swap(await answer.text());
    else if (answer.status === 422) location.assign(firstPage());
  } catch {
    // The note of tell() is what there is to say.
  } finally {
    isRunning = false;
  }
}

const isSignIn = (address) => new URL(address).pathname === "/login";

// The same list from its beginning: the place that the address names has moved.
function firstPage() {
  const address = new URL(location.href);
  if (!address.searchParams.has("cursor")) return "/";
  address.searchParams.delete("cursor");
  return address.href;
}

export function swap(text) {
  const next = new DOMParser().parseFromString(text, "text/html");
  if (!next.getElementById("live")) return false;
  isDue = false;
  const focused = document.activeElement && document.activeElement.id;
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = next.getElementById(part.id);
    if (!fresh) continue;
    const [rows, freshRows] = [part.querySelector("tbody"), fresh.querySelector("tbody")];
    if (rows && freshRows && framed(part) === framed(fresh)) swapRows(rows, freshRows);
    else if (part.innerHTML !== fresh.innerHTML) {
      fresh.querySelectorAll("tbody tr").forEach((row) => shown.set(row, row.outerHTML));
      part.replaceChildren(...fresh.childNodes);
    }
    if (fresh.dataset.version) part.dataset.version = fresh.dataset.version;
  }
  document.title = next.title;
  const again = focused && document.getElementById(focused);
  if (again && again !== document.activeElement) again.focus({ preventScroll: true });
  freshAt = performance.now();
  document.dispatchEvent(new Event("swapped"));
  return true;
}

// What stands around the rows.
function framed(part) {
  const copy = part.cloneNode(true);
  copy.querySelectorAll("tbody").forEach((body) => body.replaceChildren());
  return copy.innerHTML;
}

function swapRows(body, fresh) {
  const old = new Map([...body.rows].map((row) => [row.id, row]));
  let at = body.firstElementChild;
  for (const row of [...fresh.rows]) {
    const before = old.get(row.id);
    const text = row.outerHTML;
    const kept = before && shown.get(before) === text ? before : document.adoptNode(row);
    if (kept !== before) {
      shown.set(kept, text);
      if (before) {
        if (before.classList.contains("chosen")) kept.classList.add("chosen");
        if (Number(kept.dataset.rank) < Number(before.dataset.rank)) raised(kept, before.dataset.rank);
        if (before === at) at = before.nextElementSibling;
        before.remove();
      }
    }
    old.delete(row.id);
    if (kept === at) at = at.nextElementSibling;
    else body.insertBefore(kept, at);
  }
  old.forEach((row) => row.remove());
}

// A study that passed others is told, and shows for a while.
function raised(row, from) {
  if (!row.classList.contains("flagged") && !row.querySelector(".order.stat, .order.urgent")) return;
  row.classList.add("raised");
  setTimeout(() => row.classList.remove("raised"), 6000);
  const news = document.getElementById("news");
  const name = row.querySelector(".name");
  if (news && name) news.textContent = `${name.textContent} moved from place ${from} to ${row.dataset.rank}`;
}

function listen() {
  if (document.hidden || source) return;
  source = new EventSource("/api/changes");
  source.addEventListener("changed", (event) => {
    if (event.lastEventId !== document.getElementById("live").dataset.version) setTimeout(refresh, Math.random() * NEWS_SPREAD);
  });
}

// A browser opens few connections to one server: who does not look needs none.
function attend() {
  if (document.hidden && source) {
    source.close();
    source = null;
  }
  listen();
  refresh();
}

function tick() {
  const age = performance.now() - freshAt;
  const isTold = source && source.readyState === EventSource.OPEN;
  if (isDue || age > (isTold ? TOLD_EVERY : UNTOLD_EVERY)) refresh();
  if (source && source.readyState === EventSource.CLOSED) source = null;
  listen();
  const old = age < STALE_AFTER ? "" : `This page is ${Math.round(age / 1000)} s old: it could not be refreshed.`;
  warn([performance.now() < trouble.until ? trouble.words : "", old].filter(Boolean).join(" "));
}

function warn(words) {
  const banner = document.getElementById("stale");
  banner.hidden = !words;
  if (banner.textContent !== words) banner.textContent = words;
}

// Buttons act without leaving the page. What is refused has changed nothing: asked again, it is told by a page of its own.
// Where it is not known what has happened, nothing is sent twice.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post" || !form.closest("[data-live]")) return;
  event.preventDefault();
  trouble.until = 0;
  try {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    const isHere = new URL(answer.url).pathname === location.pathname;
    if (answer.ok && isHere && swap(await answer.text())) return;
    if (answer.ok) location.assign(answer.url);
    else if (answer.status < 500) form.submit();
    else unknown(`The server failed (${answer.status})`);
  } catch {
    unknown("The server did not answer");
  }
});

function unknown(why) {
  say(`${why}: whether that was done is not known. Look before you try again.`, TROUBLE_FOR);
  refresh();
}

export function say(words, duration = SAID_FOR) {
  trouble = { words, until: performance.now() + duration };
  warn(words);
}

setInterval(tick, 1000);
document.addEventListener("visibilitychange", attend);
listen();
