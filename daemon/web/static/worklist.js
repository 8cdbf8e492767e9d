// The list from the keyboard: j and k choose, Enter opens, s starts, r reads, / finds.
import { say } from "./live.js";

const rows = () => [...document.querySelectorAll("#live tbody tr")];
const chosen = () => document.querySelector("#live tr.chosen");

function choose(row) {
  if (!row) return;
  chosen()?.classList.remove("chosen");
  row.classList.add("chosen");
  row.querySelector(".name").focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const all = rows();
  const at = all.indexOf(chosen());
  choose(all[Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + by))]);
}

// A key that does nothing here says why; who may only look has no such keys.
function press(verb) {
  const row = chosen();
  if (!row || !document.querySelector("#live form[data-verb]")) return;
  const form = row.querySelector(`form[data-verb="${verb}"]`);
  if (form) form.requestSubmit();
  else say(row.querySelector(".status .who")?.textContent ?? "Start it first.");
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  s: () => press("start"),
  r: () => press("read"),
  "/": () => document.getElementById("filter-q").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

document.addEventListener("focusin", (event) => {
  const row = event.target.closest("#live tbody tr");
  if (!row || row === chosen()) return;
  chosen()?.classList.remove("chosen");
  row.classList.add("chosen");
});

// The filters act at once; without a script there is the button.
document.querySelectorAll(".filters select").forEach((select) => select.addEventListener("change", () => select.form.requestSubmit()));
document.querySelector(".filters").addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData.entries()]) if (!value) event.formData.delete(name);
});
