// The list as the service would show it now, new jobs among it, and as it is searched.
import { keepLooking, renew } from "./live.js";

const look = () => renew(location.href, "live");
keepLooking(look, 2);

const search = document.getElementById("q");
let pause;
search?.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(() => {
    const url = new URL(location.href);
    url.searchParams.set("q", search.value);
    url.searchParams.delete("page");
    history.replaceState(null, "", url);
    look().catch(() => {});
  }, 200);
});
