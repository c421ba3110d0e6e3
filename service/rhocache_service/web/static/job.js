const { root } = document.documentElement.dataset; // the path that a proxy shows the service under
const place = document.getElementById("job");
const id = place.dataset.job;
const rates = JSON.parse(place.dataset.rates); // [Unix seconds, pairs a second]
const cells = new Map([...document.querySelectorAll("[data-shard]")].map((cell) => [cell.dataset.shard, cell]));

// Everything is set as text, never as markup.
function show(place, job) {
  const set = (name, text) => {
    const found = place.querySelector(`[data-${name}]`);
    if (found) found.textContent = text;
  };
  const state = place.querySelector("[data-state]");
  state.textContent = job.status.replace("_", " ");
  state.className = `state ${job.status}`;
  const shards = job.shard_counts, pairs = job.request_counts, done = shards.committed + shards.failed;
  const bar = place.querySelector("[data-progress]");
  bar.max = shards.total || 1;
  bar.value = done;
  set("shards", `${done}/${shards.total ?? "?"}`);
  set("pairs", pairs.completed + pairs.failed);
  set("failed", pairs.failed);
  set("rate", job.progress.pairs_per_second.toFixed(1));
  set("left", job.progress.seconds_left == null ? "" : `, ${duration(job.progress.seconds_left)} left`);
}

function ended(job) {
  return ["completed", "failed", "cancelled", "expired"].includes(job.status);
}

function duration(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600);
  const rest = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

function draw() {
  if (rates.length < 2) return;
  const [first] = rates[0], [last] = rates[rates.length - 1];
  const most = Math.max(...rates.map(([, rate]) => rate), 1e-9);
  const points = rates.map(([at, rate]) => `${(600 * (at - first)) / (last - first || 1)},${115 - (110 * rate) / most}`);
  document.querySelector("#curve polyline").setAttribute("points", points.join(" "));
  document.getElementById("scale").textContent = `0 to ${most.toFixed(1)} pairs/s over ${Math.round(last - first)} s`;
}

async function refresh() {
  const answer = await fetch(`${root}/v1/jobs/${id}`);
  if (answer.status === 401) location.reload(); // which leads to signing in
  if (!answer.ok) return;
  const job = await answer.json();
  show(place, job);
  const offer = (action, offered) => {
    const button = place.querySelector(`[data-action=${action}]`); // none for who may not do it
    if (button) button.hidden = !offered;
  };
  offer("cancel", !ended(job) && !["cancelling", "finalizing"].includes(job.status));
  offer("retry", ended(job));
  return job;
}

function mark(shard, state) {
  const cell = cells.get(shard);
  if (!cell) return;
  const words = state.replace("_", " ");
  cell.className = state;
  cell.title = `${shard}: ${words}`;
  cell.firstElementChild.textContent = `${shard} ${words}`;
}

function follow() {
  const source = new EventSource(`${root}/v1/jobs/${id}/events`);
  const known = rates.length ? rates[rates.length - 1][0] : 0;
  source.addEventListener("shard.committed", (event) => mark(JSON.parse(event.data).name, "committed"));
  source.addEventListener("shard.failed", (event) => mark(JSON.parse(event.data).name, "failed"));
  source.addEventListener("job.progress", (event) => {
    const progress = JSON.parse(event.data);
    if (progress.at <= known) return;
    rates.push([progress.at, progress.progress.pairs_per_second]);
    for (const shard of progress.shards_in_progress) mark(shard, "in_progress");
    draw();
    refresh();
  });
  const look = async () => {
    const job = await refresh().catch(() => undefined);
    if (!job || !ended(job)) return;
    source.close();
    // With its errors and its cache, but not while something may be typed into the form.
    if (!document.querySelector("details[open]")) location.reload();
  };
  source.addEventListener("job.status", look);
  source.addEventListener("error", () => {
    look();
    // The browser tries again by itself after a lost connection, but not after a proxy's 502.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  });
}

for (const button of place.querySelectorAll("[data-action]")) {
  button.addEventListener("click", async () => {
    const answer = await fetch(`${root}/v1/jobs/${id}/${button.dataset.action}`, { method: "POST" });
    const told = await answer.json();
    document.getElementById("answer").textContent = answer.ok ? "" : told.detail;
    if (answer.ok && button.dataset.action === "retry") location.assign(`${root}/jobs/${told.id}`);
    else refresh();
  });
}

draw();
const states = ["completed", "failed", "cancelled", "expired"];
if (!states.some((state) => place.querySelector("[data-state]").classList.contains(state))) follow();
