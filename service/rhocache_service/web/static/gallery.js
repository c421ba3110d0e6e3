// A pair's picture, large, with its whole caption.
const large = document.getElementById("large");
const content = large?.querySelector("div");

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-large]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const picture = link.querySelector("img").cloneNode();
  const told = link.closest(".card").querySelector(".told").cloneNode(true);
  content.replaceChildren(picture, told);
  large.showModal();
});
large?.addEventListener("click", (event) => event.target === large && large.close());
