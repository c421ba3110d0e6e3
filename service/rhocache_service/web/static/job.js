// A job before the reader's eyes: its numbers as the service renders them, and its shards.
import { follow } from "./events.js";
import { renew } from "./live.js";

const { root } = document.documentElement.dataset; // the path that a proxy shows the service under
const id = document.getElementById("job").dataset.job;
const url = `${root}/jobs/${id}`;
const cells = new Map([...document.querySelectorAll("[data-shard]")].map((cell) => [cell.dataset.shard, cell]));
const now = () => document.getElementById("now").dataset;
const ended = () => "ended" in now();
const title = document.title;

function mark(shard, state, told = "") {
  const cell = cells.get(shard);
  if (!cell) return;
  const words = state.split(" ")[0].replace("_", " ");
  cell.className = state;
  cell.dataset.told = words + told;
  cell.firstElementChild.textContent = `${shard} ${words}`;
}

function told({ rows, failed, seconds, encoder, code }) {
  const parts = [code, rows && `${rows.toLocaleString("en")} rows`, failed && `${failed} failed`];
  if (seconds) parts.push(`${Math.round(seconds)} s`);
  if (encoder) parts.push(`by ${encoder}`);
  return parts.filter(Boolean).map((part) => `, ${part}`).join("");
}

// One look at a time, and one more where something has happened meanwhile.
let looking = false, again = false;
async function look() {
  if (looking) return void (again = true);
  looking = true;
  do {
    again = false;
    await renew(`${url}/now`, "now").catch(() => {});
    if (ended()) return location.reload(); // with its failures, and its cache
    document.title = Number(now().done) ? `${now().done}% ${title}` : title;
    const stoppable = !["cancelling", "finalizing"].some((state) => document.querySelector("#now .state").classList.contains(state));
    const cancel = document.querySelector("[data-running]");
    if (cancel) cancel.hidden = !stoppable;
  } while (again);
  looking = false;
}

if (!ended()) {
  follow(`${root}/v1/jobs/${id}/events`, Number(now().event), (event) => {
    if (event?.kind === "shard.committed") mark(event.data.name, event.data.failed ? "committed some-failed" : "committed", told(event.data));
    else if (event?.kind === "shard.failed") mark(event.data.name, "failed", told(event.data));
    else if (event?.kind === "job.progress") for (const shard of event.data.shards_in_progress) mark(shard, "in_progress");
    look();
    return ended();
  });
}

// What a shard is called and how it fared: said below the grid, where it is pointed at.
const line = document.getElementById("shard");
const legend = line && [...line.childNodes];
document.querySelector(".grid")?.addEventListener("mouseover", ({ target }) => {
  const cell = target.closest("[data-shard]");
  if (!cell) return;
  cell.title = `${cell.dataset.shard}: ${cell.dataset.told}`;
  line.textContent = cell.title;
});
document.querySelector(".grid")?.addEventListener("mouseleave", () => line.replaceChildren(...legend));
