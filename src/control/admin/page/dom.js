// Building and changing what is on the page. Texts are set as texts, never as markup: names of a
// configuration and answers of servers may be anything.

const byId = (id) => document.getElementById(id);

/** An element with attributes (`text` and `class` too) and children. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name === "class") node.className = value;
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const STATES = ["up", "down", "draining", "maint", "ejected"];

/** The shape that stands for a state beside its word. */
function shape(state) {
  const name = STATES.includes(state) ? state : "note";
  const use = svg("use", { href: `#shape-${name}` });
  return svg("svg", { class: "shape", viewBox: "0 0 12 12", "aria-hidden": "true" }, use);
}

/** Sets a text if it is another: selections and screen readers are left in peace. */
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/**
 * Makes the children of `parent` be those of `entries` (`[key, value]`, in order). A child is made
 * once by `make(value, key)`, which returns `{ node, … }`, and told of news by `update`.
 */
function keyed(parent, entries, make, update) {
  const had = parent.keyed ?? (parent.keyed = new Map());
  const wanted = new Set(entries.map(([key]) => key));
  for (const [key, child] of had) {
    if (wanted.has(key)) continue;
    child.node.remove();
    had.delete(key);
  }
  let place = parent.firstElementChild;
  for (const [key, value] of entries) {
    let child = had.get(key);
    if (!child) had.set(key, (child = make(value, key)));
    if (child.node === place) place = place.nextElementSibling;
    else parent.insertBefore(child.node, place);
    update(child, value, key);
  }
}

/**
 * A table with these columns, `[title, class]`. Roles are given by hand because narrow screens
 * show rows as cards, and browsers forget what a table is when its `display` changes.
 */
function table(name, columns) {
  const cells = columns.map(([title, kind]) => el("th", { role: "columnheader", scope: "col", class: kind ?? "", text: title }));
  const body = el("tbody", { role: "rowgroup" });
  const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...cells));
  const widths = el("colgroup", {}, ...columns.map(([, kind]) => el("col", { class: kind ?? "" })));
  return { node: el("table", { role: "table", "aria-label": name }, widths, head, body), body, columns };
}

/** A row of such a table: `row.cells[n].main` and `.more` take texts. */
function tableRow(columns) {
  const cells = columns.map(([title, kind], at) => {
    const [main, more] = [el("span", { class: "main" }), el("span", { class: "more" })];
    const role = at === 0 ? "rowheader" : "cell";
    const node = el("td", { role, class: kind ?? "", "data-title": title }, main, more);
    return { node, main, more };
  });
  return { node: el("tr", { role: "row" }, ...cells.map((cell) => cell.node)), cells };
}

/** Sets both lines of a cell. */
function fill(cell, main, more = "") {
  put(cell.main, main);
  put(cell.more, more);
}

/** A horizontal bar. */
function bar() {
  const inner = el("span", { class: "bar-in" });
  return { node: el("span", { class: "bar", "aria-hidden": "true" }, inner), inner };
}

/** Shows a share of 0 to 1, or nothing; one of a limit becomes a warning near its end. */
function setBar(one, share, limited) {
  one.node.hidden = share === null;
  if (share !== null) one.inner.style.width = `${Math.min(100, share * 100)}%`;
  mark(one.node, "data-limited", limited && "yes");
  mark(one.node, "data-full", limited && share >= 0.9 && "yes");
}

/** A curve of the last values, as high as the highest of them. */
function sparkline() {
  const [area, line] = [svg("path", { class: "area" }), svg("path", { class: "line" })];
  const attributes = { class: "spark", viewBox: "0 0 120 32", preserveAspectRatio: "none", "aria-hidden": "true" };
  return { node: svg("svg", attributes, area, line), area, line };
}

function setSparkline(one, values, length) {
  const top = Math.max(...values, 0) || 1;
  const x = (at) => (120 * (at + length - values.length)) / (length - 1);
  const y = (value) => 30 - (27 * value) / top;
  const points = values.map((value, at) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
  const path = points.length > 1 ? `M${points.join("L")}` : "";
  one.line.setAttribute("d", path);
  one.area.setAttribute("d", path && `${path}V32H${x(0).toFixed(1)}Z`);
}

