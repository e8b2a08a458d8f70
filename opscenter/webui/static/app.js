// Makes pages move. All pages work without it.
import { showTimes, countdowns } from "./times.js";
import { FleetMap } from "./map.js";
import { morph } from "./morph.js";
import { searchAsYouType } from "./search.js";

showTimes(document);
countdowns();

// The address that a control plane prints has an access token behind the #, which browsers do not send. The person presses the button: a link of another
// site is not to log in by itself.
const token = document.getElementById("token");
if (token && location.hash.startsWith("#oca_")) {
  token.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
}

// replace shows a part as it is now.
function replace(old, fresh) {
  showTimes(fresh);
  morph(old, document.importNode(fresh, true));
}

let loading = false;
const wanted = new Set();
let fleetFrom = 0; // the time from which a change of the fleet is worth a load: something always changes in a large one

// load loads the page again, and replaces the parts of the topics that changed.
async function load() {
  if (loading || document.hidden) return;
  const slow = document.querySelectorAll("#map .tile").length > 0 && Date.now() < fleetFrom; // the map and its numbers move by themselves
  const topics = new Set([...wanted].filter((topic) => topic !== "fleet" || !slow));
  if (topics.size === 0) return;
  loading = true;
  for (const topic of topics) wanted.delete(topic);
  if (topics.has("fleet")) fleetFrom = Date.now() + 10000;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname === "/login") return location.reload();
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (fresh && old.dataset.live.split(" ").some((topic) => topics.has(topic))) replace(old, fresh);
      }
      map?.count();
    } else {
      for (const topic of topics) wanted.add(topic); // again, later
    }
  } catch {
    for (const topic of topics) wanted.add(topic);
  }
  loading = false;
}
setInterval(load, 1000);
setInterval(() => { if (document.querySelector("[data-live~=poll]")) wanted.add("poll"); }, 5000); // of changes that no stream tells

const element = document.getElementById("map");
const map = element && new FleetMap(element);
const parts = [...document.querySelectorAll("[data-live]")];
const topics = new Set(parts.flatMap((part) => part.dataset.live.split(" ")));
if (map || topics.size > 0) {
  const query = new URLSearchParams([...topics].map((topic) => ["topic", topic]));
  if (map) query.set("tiles", "1");
  query.set("since", document.getElementById("main").dataset.position ?? "");
  const state = document.getElementById("live");
  const stream = new EventSource("/live?" + query);
  stream.addEventListener("open", () => {
    document.documentElement.dataset.live = "open";
    state.hidden = true;
  });
  stream.addEventListener("error", () => {
    document.documentElement.dataset.live = "lost";
    state.hidden = false;
    state.textContent = stream.readyState === EventSource.CLOSED ? "This page no longer moves. Load it again." : "The connection is lost. This page tries again.";
  });
  stream.addEventListener("tiles", (e) => map?.apply(JSON.parse(e.data)));
  stream.addEventListener("changed", (e) => wanted.add(e.data));
}

const search = document.querySelector("form[data-search]");
if (search) searchAsYouType(search, replace);
