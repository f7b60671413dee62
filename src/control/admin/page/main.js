// The page as a whole: what an answer changes, what people can set, the start.

let newest = null;

/** One answer of the instance. */
function showStatus(status, now) {
  const restarted = newest !== null && newest.status.pid !== status.pid;
  if (restarted) curves.clear();
  newest = { status, now };
  mark(document.body, "data-stale", null);
  remember(status, performance.now());
  followProcess(status.pid);
  showHead(status, now);
  showTotals(status);
  showPools(status, now);
  showListeners(status);
  showRoutes(status);
  showPolicies(status);
  showWorkers(status);
  recordHeat(status);
  drawHeat();
}

/** The same answer again, after somebody chose what to see of it. */
function redraw() {
  if (newest) showPools(newest.status, newest.now);
}

const THEMES = ["system", "dark", "light"];

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  put(byId("theme"), `Theme: ${theme}`);
  store.set(inBrowser, "sluicegate-theme", theme === "system" ? null : theme);
  if (newest) drawHeat();
}

function themeNow() {
  const kept = store.get(inBrowser, "sluicegate-theme");
  return THEMES.includes(kept) ? kept : "system";
}

function start() {
  setTheme(themeNow());
  byId("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(themeNow()) + 1) % THEMES.length]));
  byId("forget").hidden = token === null;
  byId("forget").addEventListener("click", () => {
    setToken(null);
    forbid("");
    location.reload();
  });
  byId("ask-token").addEventListener("cancel", (event) => event.preventDefault());
  byId("ask-token").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(byId("token").value);
    byId("token").value = "";
    byId("ask-token").close();
    forbid("");
    poll();
    if (stream.pid !== null) listen();
  });
  byId("confirm").querySelector("form").addEventListener("submit", confirmed);
  byId("confirm-no").addEventListener("click", () => byId("confirm").close());
  byId("find").addEventListener("input", (event) => {
    view.text = event.target.value.trim();
    redraw();
  });
  byId("events-find").addEventListener("input", (event) => {
    eventsWanted = event.target.value.trim();
    showEvents();
  });
  followHeat();
  new ResizeObserver(() => newest && drawHeat()).observe(byId("heat"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => newest && drawHeat());
  poll();
}

start();
