const { root } = document.documentElement.dataset; // the path that a proxy shows the service under
const form = document.getElementById("submit");
const answer = document.getElementById("told");
const controls = [...form.querySelectorAll("[data-form]")];
const shown = new Map(controls.map((control) => [control, state(control)])); // at first

function state(control) {
  return control.type === "checkbox" ? control.checked : control.value;
}

// What a control says as JSON; undefined where it says nothing.
function value(control) {
  const { form, value } = control.dataset;
  if (value !== undefined && state(control) === shown.get(control)) return JSON.parse(value);
  if (form === "flag") return control.checked;
  if (control.value === "") return undefined;
  if (form === "notes") return Object.fromEntries(control.value.split("\n").filter(Boolean).flatMap(note));
  return control.type === "number" ? Number(control.value) : control.value;
}

// Of KEY=VALUE, or a JSON object as the command takes it too. What is neither, the service refuses.
function note(line) {
  const sign = line.indexOf("=");
  try {
    if (line.startsWith("{")) return Object.entries(JSON.parse(line));
    return [[line.slice(0, sign), sign < 0 ? null : line.slice(sign + 1)]];
  } catch {
    return [[line, null]];
  }
}

function job() {
  const found = { kind: form.dataset.kind };
  for (const control of controls) {
    const said = value(control);
    if (said === undefined) continue;
    const parts = control.name.split("/").slice(1);
    let place = found;
    for (const part of parts.slice(0, -1)) place = place[part] ??= {};
    place[parts.at(-1)] = said;
  }
  return found;
}

function clear() {
  answer.textContent = "";
  answer.className = "";
  for (const control of controls) {
    control.removeAttribute("aria-invalid");
    document.getElementById(`${control.id}-error`).textContent = "";
  }
}

// The control that a JSON pointer leads to, or that what it leads to lies in.
function controlOf(pointer) {
  return controls.find(({ id }) => pointer === id || pointer.startsWith(`${id}/`));
}

function complain(problem) {
  answer.className = "fault";
  answer.textContent = problem.detail;
  for (const { pointer, detail } of problem.errors) {
    const control = controlOf(pointer);
    if (!control) continue;
    control.setAttribute("aria-invalid", "true");
    document.getElementById(`${control.id}-error`).textContent = detail;
  }
  controls.find((control) => control.hasAttribute("aria-invalid"))?.focus();
}

async function send(path) {
  clear();
  const headers = { "Content-Type": "application/json" };
  const got = await fetch(path, { method: "POST", headers, body: JSON.stringify(job()) });
  const told = await got.json();
  if (got.ok) return told;
  complain(told);
}

function between({ low, high }, unit) {
  const [least, most] = [low, high].map((value) => (value / unit).toFixed(1));
  return least === most ? `about ${least}` : `${least} to ${most}`;
}

document.getElementById("check").addEventListener("click", async () => {
  const found = await send(`${root}/v1/jobs:validate`);
  if (!found) return;
  const parts = [`${found.shards} shards, ${found.shards_committed} of them committed already`];
  if (found.pairs != null) parts.push(`${found.pairs} pairs`);
  if (found.predicted_seconds != null) parts.push(`${between(found.predicted_seconds, 1)} s`);
  if (found.predicted_bytes != null) parts.push(`${between(found.predicted_bytes, 1e6)} MB`);
  answer.textContent = `${parts.join(", ")}.`;
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const taken = await send(`${root}/v1/jobs`);
  if (!taken) return;
  if ("showsJobs" in form.dataset) location.assign(`${root}/jobs/${taken.id}`);
  else answer.textContent = `${taken.id} was taken.`;
});
