// The plan beside the form while it is filled in, and the weights that a model can load.
const form = document.getElementById("submit");
const touched = new Set();
let asked = 0, pause;

async function plan() {
  const number = ++asked;
  const body = new URLSearchParams(new FormData(form));
  body.set("plan", "1");
  const answer = await fetch(form.action, { method: "POST", body });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("plan");
  if (number !== asked || !fresh) return; // something else has been filled in since
  document.getElementById("plan").replaceChildren(...fresh.childNodes);
  for (const name of touched) {
    const [shown, told] = [document, page].map((each) => each.getElementById(`${name}-error`));
    shown.textContent = told.textContent;
    document.getElementById(name).setAttribute("aria-invalid", String(told.textContent !== ""));
  }
}

form.addEventListener("input", ({ target }) => {
  touched.add(target.id);
  clearTimeout(pause);
  pause = setTimeout(() => plan().catch(() => {}), 400);
});

const model = document.getElementById("/reference/model");
const weights = document.querySelectorAll("#weights option");
function narrow() {
  const known = [...weights].some((option) => option.dataset.model === model.value);
  for (const option of weights) option.disabled = known && option.dataset.model !== model.value;
}
if (model && weights.length) {
  model.addEventListener("input", narrow);
  narrow();
}

document.querySelector("[aria-invalid]")?.focus();
if ([...form.querySelectorAll("input")].some((input) => input.value && input.id === "/dataset")) plan().catch(() => {});
