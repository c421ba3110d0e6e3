// Shows a part of a page as the service would render it now. Everything is the service's own HTML.

// Replace the element with this id by the one in the page at `url`; tell whether it has changed.
export async function renew(url, id) {
  const answer = await fetch(url);
  if (answer.redirected || answer.status === 401) location.reload(); // to where one signs in
  if (!answer.ok) return false;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(id);
  const shown = document.getElementById(id);
  if (!fresh || fresh.outerHTML === shown.outerHTML) return false;
  const focused = shown.contains(document.activeElement) && document.activeElement.getAttribute("href");
  shown.replaceWith(document.adoptNode(fresh));
  if (focused) fresh.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  document.dispatchEvent(new Event("renewed"));
  return true;
}

// Call `look` every few seconds, but not while nobody sees the page.
export function keepLooking(look, seconds) {
  setInterval(() => document.hidden || look().catch(() => {}), seconds * 1000);
}
