// The head of the page: which instance this is, what is wrong with it as a whole, totals.

function showHead(status, now) {
  put(byId("host"), status.host ?? "");
  document.title = `${troubleMark(status)}Sluicegate${status.host ? ` · ${status.host}` : ""}`;
  const phase = status.phase || (status.ready ? "ready" : "not ready");
  put(byId("phase"), phase);
  mark(byId("phase"), "data-phase", phase);
  const { hash, loaded_at: loaded, last_reload: reload } = status.config;
  const reloadWords = reload.ok ? agoText(reload.at, now) : `failed ${agoText(reload.at, now)}`;
  showFacts([
    ["Version", status.version, null],
    ["Up", spanText(status.uptime_s), null],
    ["Engine", status.engine, null],
    ["Process", String(status.pid), null],
    ["Config", hash.slice(0, 8), `${hash}, loaded ${loaded}`],
    ["Reload", reloadWords, reload.at, reload.ok ? null : "bad"],
  ]);
  showBanners(bannersOf(status));
}

/** Servers that are down count in the title of the tab. */
function troubleMark(status) {
  const servers = Object.values(status.pools).flatMap((pool) => Object.values(pool.servers));
  const down = servers.filter((server) => server.state === "down").length;
  return down > 0 ? `(${down} down) ` : "";
}

function showFacts(facts) {
  const make = (fact) => {
    const value = el("dd");
    return { node: el("div", {}, el("dt", { text: fact[0] }), value), value };
  };
  keyed(byId("facts"), facts.map((fact) => [fact[0], fact]), make, (row, [, text, title, tone]) => {
    put(row.value, text);
    mark(row.value, "title", title);
    mark(row.value, "data-tone", tone);
  });
}

/** What concerns the whole instance: `[key, { tone, title, text, report }]`. */
function bannersOf(status) {
  const banners = [];
  const reload = status.config.last_reload;
  if (!reload.ok) {
    banners.push(["reload", {
      tone: "bad",
      title: "The last reload failed",
      text: `At ${timeText(new Date(reload.at))}. Nothing of it was applied: configuration ${status.config.hash.slice(0, 8)} goes on serving.`,
      report: reload.error ?? "",
    }]);
  }
  for (const [name, listener] of Object.entries(status.listeners)) {
    if (!listener.tls_error) continue;
    const title = `Listener ${name} keeps its old certificates`;
    banners.push([`tls/${name}`, { tone: "warn", title, text: "The changed files cannot be used.", report: listener.tls_error }]);
  }
  if (status.log?.stalled) {
    const text = `Its file or pipe takes nothing. ${plural(status.log.dropped, "line")} lost since the start.`;
    banners.push(["log", { tone: "warn", title: "The access log stands still", text, report: "" }]);
  }
  return banners;
}

function showBanners(banners) {
  const make = () => {
    const [title, text, report] = [el("strong"), el("span"), el("pre", { tabindex: "0" })];
    return { node: el("div", { class: "banner" }, el("p", {}, title, " ", text), report), title, text, report };
  };
  keyed(byId("banners"), banners, make, (row, banner, key) => {
    mark(row.node, "data-tone", banner.tone);
    mark(row.node, "data-about", key);
    put(row.title, banner.title);
    put(row.text, banner.text);
    put(row.report, banner.report);
    row.report.hidden = banner.report === "";
  });
}

function showUnreachable(since, error) {
  mark(document.body, "data-stale", "yes");
  put(byId("phase"), "not reachable");
  mark(byId("phase"), "data-phase", "unreachable");
  const text = `Since ${timeText(since)}. What stands below is from before; it is asked again and again.`;
  showBanners([["unreachable", { tone: "bad", title: "The instance is not reachable", text, report: error.message }]]);
}

const sumOf = (table, read) => Object.values(table).reduce((sum, one) => sum + read(one), 0);

const requestsOf = (status) => sumOf(status.listeners, (listener) => sumOf(listener.routes ?? {}, (route) => route.requests));
const failuresOf = (status) => sumOf(status.listeners, (listener) => sumOf(listener.routes ?? {}, (route) => route.classes["5xx"] ?? 0));
const connectionsOf = (status) => sumOf(status.listeners, (listener) => listener.total);
const refusedOf = (status) => sumOf(status.listeners, (listener) => listener.refused);
const inOf = (status) => sumOf(status.listeners, (listener) => listener.bytes_in ?? 0);
const outOf = (status) => sumOf(status.listeners, (listener) => listener.bytes_out ?? 0);
const serverErrorsOf = (status) => sumOf(status.pools, (pool) => sumOf(pool.servers, (server) => server.errors));

/** `[name, words about it, value for the curve, number, unit, details, tone]`. */
function tilesOf(status) {
  // For curves, which would be blunt with as long a time as numbers need to be read.
  const over = (read) => rateOf(read, 2);
  const bytes = over((one) => inOf(one) + outOf(one));
  const [failed, refused, server] = [failuresOf, refusedOf, serverErrorsOf].map((read) => rateOf(read));
  const problems = failed === null ? null : failed + refused + server;
  const busy = status.workers.map((worker) => worker.busy);
  const mean = busy.reduce((sum, one) => sum + one, 0) / (busy.length || 1);
  const active = sumOf(status.listeners, (listener) => listener.active);
  const held = sumOf(status.pools, (pool) => pool.held);
  const tiles = [
    ["Connections", over(connectionsOf), rateText(rateOf(connectionsOf)), "new/s", `${countText(connectionsOf(status))} since the start`],
    ["Sessions", active, countText(active), "open", held > 0 ? `${countText(held)} waiting for a server` : "nobody waits"],
    ["Throughput", bytes, bytesText(rateOf((one) => inOf(one) + outOf(one))), "/s", `in ${bytesText(rateOf(inOf))}, out ${bytesText(rateOf(outOf))}`],
    ["Problems", problems, rateText(problems), "/s", `5xx ${rateText(failed)}, refused ${rateText(refused)}, servers ${rateText(server)}`, problems > 0 ? "bad" : null],
    ["Workers", mean, shareText(mean), "busy", `${plural(busy.length, "worker")}, the busiest ${shareText(Math.max(0, ...busy))}`],
  ];
  const speaksHttp = Object.values(status.listeners).some((listener) => listener.mode === "http");
  const requests = ["Requests", over(requestsOf), rateText(rateOf(requestsOf)), "/s", `${countText(requestsOf(status))} since the start`];
  return speaksHttp ? [requests, ...tiles] : tiles;
}

function showTotals(status) {
  const make = ([name]) => {
    const [number, unit, words] = [el("span", { class: "number" }), el("span", { class: "unit" }), el("p", { class: "more" })];
    const spark = sparkline();
    const figure = el("p", { class: "figure" }, number, " ", unit);
    return { node: el("div", { class: "tile" }, el("h2", { text: name }), figure, words, spark.node), number, unit, words, spark };
  };
  keyed(byId("totals"), tilesOf(status).map((tile) => [tile[0], tile]), make, (row, tile) => {
    const [name, value, number, unit, words, tone] = tile;
    put(row.number, number);
    put(row.unit, unit);
    put(row.words, words);
    mark(row.node, "data-tone", tone);
    setSparkline(row.spark, curve(`total/${name}`, value), CURVE_LENGTH);
  });
}

