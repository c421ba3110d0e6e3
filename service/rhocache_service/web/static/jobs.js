// The list as the service would show it now, new jobs among it.
const SECONDS = 2;

async function look() {
  if (document.hidden) return;
  const answer = await fetch(location.href);
  if (answer.redirected) location.reload(); // to where one signs in
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [shown, fresh] = [document, page].map((each) => each.getElementById("jobs"));
  if (!fresh || fresh.innerHTML === shown.innerHTML) return;
  const focused = shown.contains(document.activeElement) && document.activeElement.getAttribute("href");
  shown.replaceWith(fresh);
  if (focused) fresh.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

setInterval(() => look().catch(() => {}), SECONDS * 1000);
