// What both pages do with a job: everything is set as text, never as markup.
export function show(place, job) {
  const set = (name, text) => {
    const found = place.querySelector(`[data-${name}]`);
    if (found) found.textContent = text;
  };
  const state = place.querySelector("[data-state]");
  state.textContent = job.status.replace("_", " ");
  state.className = `state ${job.status}`;
  const shards = job.shard_counts, pairs = job.request_counts, done = shards.completed + shards.failed;
  const bar = place.querySelector("[data-progress]");
  bar.max = shards.total || 1;
  bar.value = done;
  set("shards", `${done}/${shards.total ?? "?"}`);
  set("pairs", pairs.completed + pairs.failed);
  set("failed", pairs.failed);
  set("rate", job.progress.pairs_per_second.toFixed(1));
  set("left", job.progress.seconds_left == null ? "" : `, ${duration(job.progress.seconds_left)} left`);
}

export function ended(job) {
  return ["completed", "failed", "cancelled", "expired"].includes(job.status);
}

function duration(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600);
  const rest = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}
