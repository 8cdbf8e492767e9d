// A study: its film, and the same life as the list.
import { say } from "./live.js";
import { Film } from "./film.js";

const canvas = document.getElementById("film");

// The list as it was asked for, where this page was opened from it.
const from = document.referrer && new URL(document.referrer);
if (from && from.origin === location.origin && from.pathname === "/") document.getElementById("back").href = `/${from.search}`;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "s" || event.key === "r") {
    const form = document.querySelector(`form[data-verb="${event.key === "s" ? "start" : "read"}"]`);
    if (form) form.requestSubmit();
    else if (document.querySelector("#live form[data-verb]")) say(document.querySelector("#live .who, #live .place")?.textContent.trim());
  }
});

if (canvas) {
  const film = new Film(canvas, document.getElementById("film-state"), document.getElementById("window"));
  document.getElementById("tools").hidden = false;
  document.querySelectorAll("[data-tool]").forEach((button) =>
    button.addEventListener("click", () => {
      film.use(button.dataset.tool);
      if (button.dataset.tool === "invert") button.setAttribute("aria-pressed", String(film.isInverted));
    }),
  );
  const number = document.getElementById("number");
  const kind = document.getElementById("kind");
  const overlay = document.getElementById("overlay");
  const draw = () => {
    overlay.hidden = !kind.value;
    canvas.hidden = Boolean(kind.value);
    if (kind.value) overlay.src = overlay.dataset.src + kind.value;
  };
  // The overlay is drawn over the first film alone.
  const show = () => {
    const at = number ? number.value : "1";
    if (kind) {
      kind.disabled = at !== "1";
      kind.value = "";
      overlay.hidden = true;
    }
    film.load(at);
  };
  kind?.addEventListener("change", draw);
  number?.addEventListener("change", show);
  show();
}
