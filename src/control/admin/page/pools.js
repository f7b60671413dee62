// Pools and their servers: state and why, weight, load, errors, latencies, and what can be changed.

const SERVER_COLUMNS = [
  ["State", "state"],
  ["Server", "name"],
  ["Last check", "check"],
  ["Weight", "num weight"],
  ["Active", "num load"],
  ["New", "num"],
  ["Errors", "num"],
  ["Connect", "num time"],
  ["Answer", "num time"],
  ["Change", "acts"],
];

/** A pool with more servers has its own heading in sight, whatever stands above it. */
const LONG = 8;

/** What of the servers is shown. */
const view = { state: null, text: "", open: new Set() };

/** States seen last, by pool and server: what is announced is a difference. */
let statesBefore = null;

function showPools(status, now) {
  const servers = Object.entries(status.pools).flatMap(([pool, of]) =>
    Object.entries(of.servers).map(([name, server]) => ({ pool, name, server })));
  announce(servers);
  showStates(servers);
  const pools = Object.entries(status.pools).filter(([name, pool]) => shownServers(name, pool).length > 0 || (!view.text && !view.state));
  keyed(byId("pool-list"), pools, makePool, (block, pool, name) => updatePool(block, name, pool, now));
  put(byId("pools-words"), pools.length === 0 ? "No server is like that." : "");
}

/** Tells screen readers what changed since the last answer. */
function announce(servers) {
  const states = new Map(servers.map(({ pool, name, server }) => [`${pool}/${name}`, server]));
  const news = [...states].filter(([key, server]) => statesBefore?.has(key) && statesBefore.get(key) !== server.state);
  if (news.length > 0) {
    put(byId("heard"), news.slice(0, 5).map(([key, server]) => `${key} is ${server.state}: ${server.health.detail}`).join(". "));
  }
  statesBefore = new Map([...states].map(([key, server]) => [key, server.state]));
}

/** Buttons that show only servers in one state, with how many there are. */
function showStates(servers) {
  const count = (state) => servers.filter(({ server }) => server.state === state).length;
  const chips = STATES.filter((state) => count(state) > 0 || view.state === state).map((state) => [state, count(state)]);
  const make = (_, state) => {
    const number = el("b");
    const node = el("button", { type: "button", class: "chip", "data-state": state }, shape(state), el("span", { text: state }), number);
    node.addEventListener("click", () => {
      view.state = view.state === state ? null : state;
      redraw();
    });
    return { node, number };
  };
  keyed(byId("states"), chips, make, (chip, number, state) => {
    put(chip.number, String(number));
    mark(chip.node, "aria-pressed", String(view.state === state));
  });
}

function shownServers(pool, { servers }) {
  const wanted = view.text.toLowerCase();
  return Object.entries(servers).filter(([name, server]) =>
    (!view.state || server.state === view.state) && `${pool}/${name} ${server.addr}`.toLowerCase().includes(wanted));
}

function makePool(_, name) {
  const [words, breaker] = [el("span", { class: "sub" }), el("span", { class: "badge" })];
  const head = el("header", { class: "pool-head" }, el("h3", { text: name }), words, breaker);
  const servers = table(`Servers of pool ${name}`, SERVER_COLUMNS);
  servers.node.classList.add("servers");
  const node = el("article", { class: "pool" }, head, el("div", { class: "scroll" }, servers.node));
  return { node, words, breaker, servers };
}

function updatePool(block, name, pool, now) {
  const all = Object.values(pool.servers);
  const up = all.filter((server) => server.state === "up").length;
  const waiting = pool.held > 0 ? ` · ${countText(pool.held)} waiting` : "";
  put(block.words, `${pool.balance} · ${up} of ${all.length} up${waiting}`);
  block.breaker.hidden = !pool.breaker;
  put(block.breaker, pool.breaker ? `breaker ${pool.breaker}` : "");
  mark(block.breaker, "data-tone", { open: "bad", "half-open": "warn" }[pool.breaker]);
  mark(block.node, "data-trouble", up === 0 && "all");
  mark(block.node, "data-long", all.length > LONG && "yes");
  const most = Math.max(1, ...all.map((server) => server.active));
  const rows = shownServers(name, pool).flatMap(([key, server]) => {
    const own = [key, { pool: name, name: key, server, up, most }];
    const members = view.open.has(`${name}/${key}`) ? server.members ?? [] : [];
    return [own, ...members.map((member) => [`${key} ${member.addr}`, { pool: name, name: key, server: member, up, most, member: true }])];
  });
  keyed(block.servers.body, rows, makeServer, (row, value) => updateServer(row, value, now));
}

function makeServer(value) {
  const row = tableRow(SERVER_COLUMNS);
  const [state, name, , weight, load, , , , , acts] = row.cells;
  row.value = value;
  row.shape = el("span", { class: "shape-place" });
  row.word = el("span");
  state.main.append(row.shape, row.word);
  row.bar = bar();
  load.node.append(row.bar.node);
  if (value.member) {
    row.node.classList.add("member");
    return row;
  }
  row.title = el("b", { text: value.name });
  row.notes = el("span", { class: "badges" });
  row.open = el("button", { type: "button", class: "open" });
  row.open.addEventListener("click", () => {
    const key = `${row.value.pool}/${row.value.name}`;
    if (!view.open.delete(key)) view.open.add(key);
    redraw();
  });
  name.main.append(row.title, row.notes, row.open);
  row.weight = actionButton("", () => askWeight(row.value.pool, row.value.name, row.value.server));
  weight.main.append(row.weight);
  row.buttons = CHANGES.map(([change, word]) => {
    const button = actionButton(word, () => {
      const { pool, name: server, server: status, up } = row.value;
      askState(change, pool, server, status, up - (status.state === "up" ? 1 : 0));
    });
    button.setAttribute("aria-label", `${word} ${value.name}`);
    return [change, button];
  });
  acts.main.append(...row.buttons.map(([, button]) => button));
  acts.main.setAttribute("role", "group");
  acts.main.setAttribute("aria-label", `Change ${value.name}`);
  return row;
}

function actionButton(word, act) {
  const button = el("button", { type: "button", text: word, title: forbidden || null });
  button.disabled = forbidden !== "";
  button.addEventListener("click", act);
  return button;
}

function updateServer(row, value, now) {
  const { pool, name, server, most, member } = value;
  row.value = value;
  const [state, who, check, weight, load, fresh, errors, connect, answer] = row.cells;
  if (row.state !== server.state) {
    row.shape.replaceChildren(shape(server.state));
    put(row.word, server.state);
    mark(row.node, "data-state", server.state);
    mark(row.node, "data-changed", row.state !== undefined && samples.length % 2 ? "a" : row.state !== undefined && "b");
    row.state = server.state;
  }
  const override = server.override ?? null;
  put(state.more, override && (override.state || !override.weight) ? "override" : "");
  mark(state.node, "title", override && `Changed through the admin API: ${JSON.stringify(override)}`);
  put(who.more, server.addr);
  fill(check, server.health.detail, server.health.at ? agoText(server.health.at, now) : "");
  mark(check.main, "title", server.health.detail);
  mark(check.node, "data-ok", String(server.health.ok));
  showLoad(row, load, server, most);
  const read = (field) => (status) => {
    const of = status.pools[pool]?.servers[name];
    return (member ? of?.members?.find((one) => one.addr === server.addr) : of)?.[field];
  };
  fill(fresh, `${rateText(rateOf(read("total")))}/s`, countText(server.total));
  fill(errors, countText(server.errors), ofLate(read("errors")));
  mark(errors.node, "data-tone", server.errors > 0 && "bad");
  showTimes(connect, server.latency_ms?.connect);
  showTimes(answer, server.latency_ms?.request);
  if (member) put(weight.main, String(server.weight));
  else showOwn(row, weight, server, override);
}

/** What was added in the last minute, which is what an operator looks for. */
function ofLate(read) {
  const fresh = samples.length > 1 ? grownBy(read) : 0;
  return fresh > 0 ? `+${countText(fresh)} in 1 min` : "";
}

function showLoad(row, cell, server, most) {
  const limit = server.max_conns ?? null;
  fill(cell, limit === null ? countText(server.active) : `${countText(server.active)} / ${countText(limit)}`);
  setBar(row.bar, server.active / (limit ?? most), limit !== null);
  mark(cell.node, "title", limit === null ? "The bar compares with the busiest server of the pool" : `At most ${limit} at once`);
}

function showTimes(cell, times) {
  fill(cell, latencyText(times?.p50), times ? `p99 ${latencyText(times.p99)}` : "");
  mark(cell.node, "title", times && `Since the start: p50 ${latencyText(times.p50)}, p90 ${latencyText(times.p90)}, p99 ${latencyText(times.p99)}, p99.9 ${latencyText(times.p999)}`);
}

/** What only a server has and not one of its addresses. */
function showOwn(row, weight, server, override) {
  const notes = [server.backup && "backup", server.stale && "stale"].filter(Boolean);
  keyed(row.notes, notes.map((note) => [note, note]), (note) => ({ node: el("span", { class: "badge", text: note }) }), () => {});
  const members = server.members?.length ?? 0;
  const open = view.open.has(`${row.value.pool}/${row.value.name}`);
  row.open.hidden = members === 0;
  put(row.open, plural(members, "address", "addresses"));
  mark(row.open, "aria-expanded", String(open));
  put(row.weight, String(server.weight));
  mark(row.weight, "aria-label", `Weight of ${row.value.name}: ${server.weight}`);
  put(weight.more, override?.weight ? "override" : "");
  const wish = wishOf(server);
  for (const [change, button] of row.buttons) mark(button, "aria-pressed", String(change === wish));
}

