const { root } = document.documentElement.dataset; // the path that a proxy shows the service under
const form = document.getElementById("submit");
const answer = document.getElementById("answer");

function job() {
  const found = {};
  for (const input of form.querySelectorAll("input, select")) {
    if (input.value === "") continue;
    const parts = input.name.split("/").slice(1);
    let place = found;
    for (const part of parts.slice(0, -1)) place = place[part] ??= {};
    place[parts.at(-1)] = input.type === "number" ? Number(input.value) : input.value;
  }
  return found;
}

function clear() {
  answer.textContent = "";
  answer.className = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  for (const error of form.querySelectorAll(".error")) error.textContent = "";
}

function complain(problem) {
  answer.className = "fault";
  answer.textContent = problem.detail;
  let first;
  for (const { pointer, detail } of problem.errors) {
    const input = document.getElementById(pointer), error = document.getElementById(`${pointer}-error`);
    if (!input || !error) continue;
    input.setAttribute("aria-invalid", "true");
    error.textContent = detail;
    first ??= input;
  }
  first?.focus();
}

async function send(path) {
  clear();
  const headers = { "Content-Type": "application/json" };
  const got = await fetch(path, { method: "POST", headers, body: JSON.stringify(job()) });
  const told = await got.json();
  if (got.ok) return told;
  complain(told);
}

document.getElementById("check").addEventListener("click", async () => {
  const found = await send(`${root}/v1/jobs:validate`);
  if (!found) return;
  const parts = [`${found.shards} shards, ${found.shards_done} of them done already`];
  if (found.pairs != null) parts.push(`${found.pairs} pairs`);
  if (found.predicted_seconds != null) parts.push(`about ${Math.ceil(found.predicted_seconds)} s`);
  if (found.predicted_bytes != null) parts.push(`about ${(found.predicted_bytes / 1e6).toFixed(1)} MB`);
  answer.textContent = `${parts.join(", ")}.`;
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const taken = await send(`${root}/v1/jobs`);
  if (!taken) return;
  if ("showsJobs" in form.dataset) location.assign(`${root}/jobs/${taken.id}`);
  else answer.textContent = `${taken.id} was taken.`;
});
