// What every page has: ages that grow and are exact in the reader's own time, and copy buttons.
const SIZES = [[86400, "d"], [3600, "h"], [60, "min"]];

function tellTimes() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const at = new Date(time.dateTime);
    const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
    const unit = SIZES.find(([size]) => seconds >= size);
    const text = unit ? `${Math.floor(seconds / unit[0])} ${unit[1]} ago` : "just now";
    if (time.textContent !== text) time.textContent = text;
    time.title = at.toLocaleString();
  }
}

function offerCopies() {
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = (button.closest(".copied")?.querySelector("pre") ?? button.parentElement.querySelector("[data-copied]")).textContent;
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

for (const details of document.querySelectorAll("details[data-load]")) {
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    const text = await (await fetch(details.dataset.load)).text();
    const found = new DOMParser().parseFromString(text, "text/html").getElementById("log");
    if (found) details.lastElementChild.replaceWith(document.adoptNode(found));
  });
}

tellTimes();
offerCopies();
setInterval(tellTimes, 10_000);
document.addEventListener("renewed", tellTimes);
