// Listeners, routes, policies and workers: one table each.

const LISTENER_COLUMNS = [
  ["Listener", "name"],
  ["Address", "addr"],
  ["New", "num"],
  ["Active", "num load"],
  ["Refused", "num"],
  ["In", "num"],
  ["Out", "num"],
  ["p50", "num time"],
  ["p99", "num time"],
  ["New/s, of late", "curve"],
];

const ROUTE_COLUMNS = [
  ["Route", "name"],
  ["Requests", "num"],
  ["Answers of the last minute", "mix"],
  ["p50", "num time"],
  ["p99", "num time"],
];

const POLICY_COLUMNS = [
  ["Policy", "name"],
  ["Route", "addr"],
  ["Asked", "num"],
  ["Takes", "num time"],
  ["p99", "num time"],
  ["Denied", "num"],
];

const WORKER_COLUMNS = [
  ["Worker", "name"],
  ["Sessions", "num"],
  ["Busy", "num load"],
];

/** The warning begins this many days before a certificate ends. */
const CERTIFICATE_DAYS = 14;

/** The table in a place of the page, made at its first use. */
function tableIn(id, name, columns) {
  const place = byId(id);
  if (!place.table) {
    place.table = table(name, columns);
    place.append(place.table.node, (place.words = el("p", { class: "words" })));
  }
  return place;
}

function showTable(place, entries, words, make, update) {
  place.table.node.hidden = entries.length === 0;
  put(place.words, entries.length === 0 ? words : "");
  keyed(place.table.body, entries, make, update);
}

function showListeners(status) {
  const make = (_, name) => {
    const row = tableRow(LISTENER_COLUMNS);
    row.badges = el("span", { class: "badges" });
    row.cells[0].main.append(el("b", { text: name }), row.badges);
    row.bar = bar();
    row.cells[3].node.append(row.bar.node);
    row.spark = sparkline();
    row.cells[9].node.append(row.spark.node);
    return row;
  };
  const place = tableIn("listener-list", "Listeners", LISTENER_COLUMNS);
  showTable(place, Object.entries(status.listeners), "There is no listener.", make, updateListener);
}

function updateListener(row, listener, name) {
  const of = (field) => (status) => status.listeners[name]?.[field];
  const [who, address, fresh, active, refused, into, out, p50, p99] = row.cells;
  const badges = [listener.mode, listener.tls && "tls"].filter(Boolean).map((word) => [word, word]);
  keyed(row.badges, badges, (word) => ({ node: el("span", { class: "badge", text: word }) }), () => {});
  put(who.more, listener.pool ? `to ${listener.pool}` : "");
  fill(address, listener.bind.join(", "), certificateWords(listener.certificates ?? []));
  mark(address.node, "data-tone", (listener.certificates ?? []).some((one) => one.days_left < CERTIFICATE_DAYS) && "warn");
  const rate = rateOf(of("total"));
  fill(fresh, `${rateText(rate)}/s`, countText(listener.total));
  const limit = listener.max_conns ?? null;
  fill(active, limit === null ? countText(listener.active) : `${countText(listener.active)} / ${countText(limit)}`);
  setBar(row.bar, limit === null ? null : listener.active / limit, true);
  fill(refused, countText(listener.refused), ofLate(of("refused")));
  mark(refused.node, "data-tone", listener.refused > 0 && "bad");
  fill(into, `${bytesText(rateOf(of("bytes_in")))}/s`, bytesText(listener.bytes_in));
  fill(out, `${bytesText(rateOf(of("bytes_out")))}/s`, bytesText(listener.bytes_out));
  const times = recent((status) => status.listeners[name]?.latency);
  fill(p50, latencyText(quantile(times, 0.5)), listener.latency?.of ?? "");
  fill(p99, latencyText(quantile(times, 0.99)), "last minute");
  setSparkline(row.spark, curve(`listener/${name}`, rateOf(of("total"), 1)), CURVE_LENGTH);
}

/** Until when the certificate that ends first is good. */
function certificateWords(certificates) {
  if (certificates.length === 0) return "";
  const first = certificates.reduce((one, other) => (other.days_left < one.days_left ? other : one));
  if (first.days_left < 0) return "certificate has expired";
  if (first.days_left < CERTIFICATE_DAYS) return `certificate ends in ${plural(first.days_left, "day")}`;
  return `certificate until ${first.not_after.slice(0, 10)}`;
}

const CLASSES = ["2xx", "3xx", "4xx", "5xx"];

function showRoutes(status) {
  const entries = Object.entries(status.listeners).flatMap(([listener, of]) =>
    Object.entries(of.routes ?? {})
      // Every HTTP listener has one without a name; it says something only once it was used.
      .filter(([name, route]) => name !== "" || route.requests > 0)
      .map(([name, route]) => [`${listener} ${name}`, { listener, name, route }]));
  const make = ({ name }) => {
    const row = tableRow(ROUTE_COLUMNS);
    row.cells[0].main.append(el("b", { text: name || "no route" }));
    row.parts = CLASSES.map((one) => [one, el("span", { class: `part c${one[0]}` })]);
    row.cells[2].node.prepend(el("span", { class: "mixed", "aria-hidden": "true" }, ...row.parts.map(([, part]) => part)));
    return row;
  };
  showTable(tableIn("route-list", "Routes", ROUTE_COLUMNS), entries, "No listener has routes.", make, updateRoute);
}

function updateRoute(row, { listener, name, route }) {
  const of = (status) => status.listeners[listener]?.routes?.[name];
  const [who, requests, mix, p50, p99] = row.cells;
  put(who.more, listener);
  fill(requests, `${rateText(rateOf((status) => of(status)?.requests))}/s`, countText(route.requests));
  const counts = CLASSES.map((one) => grownBy((status) => of(status)?.classes[one] ?? 0));
  const all = counts.reduce((sum, count) => sum + count, 0);
  row.parts.forEach(([, part], at) => {
    part.style.flexGrow = all === 0 ? 0 : counts[at];
    part.hidden = counts[at] === 0;
  });
  const words = CLASSES.map((one, at) => [one, counts[at]]).filter(([, count]) => count > 0);
  fill(mix, "", words.length === 0 ? "no answers" : words.map(([one, count]) => `${one} ${countText(count)}`).join(" · "));
  const times = recent((status) => of(status)?.latency);
  fill(p50, latencyText(quantile(times, 0.5)), "");
  fill(p99, latencyText(quantile(times, 0.99)), "");
}

function showPolicies(status) {
  const key = (one) => `${one.policy} ${one.route}`;
  const entries = (status.policies ?? []).map((one) => [key(one), one]);
  entries.sort(([one], [other]) => (one < other ? -1 : 1));
  const make = (policy) => {
    const row = tableRow(POLICY_COLUMNS);
    row.cells[0].main.append(el("b", { text: policy.policy }));
    return row;
  };
  const find = (wanted) => (status, field) => status.policies?.find((one) => key(one) === wanted)?.[field];
  const place = tableIn("policy-list", "Policies", POLICY_COLUMNS);
  showTable(place, entries, "No policy has judged a request yet.", make, (row, policy, name) => {
    const of = find(name);
    const [who, route, asked, takes, p99, denied] = row.cells;
    put(who.more, policy.type);
    fill(route, policy.route || "no route");
    fill(asked, `${rateText(rateOf((status) => of(status, "requests")))}/s`, countText(policy.requests));
    const [micros, times] = ["total_us", "requests"].map((field) => grownBy((status) => of(status, field)));
    const mean = times > 0 ? micros / times : null;
    fill(takes, mean === null ? NONE : `${mean.toFixed(mean < 10 ? 1 : 0)} µs`, "a request");
    fill(p99, latencyText(policy.p99_us / 1000), "");
    fill(denied, countText(policy.denied), ofLate((status) => of(status, "denied")));
    mark(denied.node, "data-tone", policy.denied > 0 && "warn");
  });
}

function showWorkers(status) {
  const make = (_, id) => {
    const row = tableRow(WORKER_COLUMNS);
    row.cells[0].main.append(el("b", { text: `worker ${id}` }));
    row.bar = bar();
    row.cells[2].node.append(row.bar.node);
    return row;
  };
  const entries = status.workers.map((worker) => [worker.id, worker]);
  showTable(tableIn("worker-list", "Workers", WORKER_COLUMNS), entries, "There is no worker.", make, (row, worker) => {
    const [who, sessions, busy] = row.cells;
    put(who.more, `${worker.cpu === null ? "not pinned" : `CPU ${worker.cpu}`}${worker.stuck ? ", stuck" : worker.late ? ", late" : ""}`);
    mark(who.node, "data-tone", worker.stuck && "bad");
    fill(sessions, countText(worker.sessions));
    fill(busy, shareText(worker.busy));
    setBar(row.bar, worker.busy, true);
  });
}

