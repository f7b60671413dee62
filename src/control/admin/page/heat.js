// The heat map: time from left to right, latencies upwards by ratio, brighter where more took that
// long. A column is what the counts of one answer grew by since the one before.

const HEAT_SECONDS = 300;
const HEAT_SECONDS_LEAST = 60;
const HEAT_ROWS_LEAST = 14;
/** Percentiles are of this many columns together, so that single slow ones do not make a comb. */
const LINE_OVER = 5;

const heat = { columns: new Map(), chosen: null, cursor: null, moved: false };

/** What has a distribution: `[key, words, read]`. */
function heatSources(status) {
  const listeners = Object.entries(status.listeners).map(([name, of]) =>
    [`listener ${name}`, `${name} · ${of.latency?.of ?? (of.mode === "http" ? "requests" : "sessions")}`, (one) => one.listeners[name]?.latency]);
  const pools = Object.keys(status.pools).map((name) => [`pool ${name}`, `${name} · connects`, (one) => one.pools[name]?.latency]);
  const routes = Object.entries(status.listeners).flatMap(([listener, of]) =>
    Object.keys(of.routes ?? {}).filter((name) => name !== "").map((name) =>
      [`route ${listener} ${name}`, `${listener} · route ${name}`, (one) => one.listeners[listener]?.routes?.[name]?.latency]));
  return [...listeners, ...pools, ...routes];
}

function recordHeat(status) {
  const newest = samples.at(-1);
  const before = samples.at(-2);
  const sources = heatSources(status);
  if (!before) heat.columns.clear();
  for (const [key, , read] of sources) {
    if (!before) continue;
    const columns = heat.columns.get(key) ?? [];
    const counts = difference(read(newest.status), read(before.status)).filter(([, count]) => count > 0);
    columns.push({ at: newest.at, span: (newest.at - before.at) / 1000, counts });
    while (newest.at - columns[0].at > HEAT_SECONDS * 1000) columns.shift();
    heat.columns.set(key, columns);
  }
  offerSources(status, sources);
}

/** Keeps the list of what can be chosen, and chooses what says most until somebody does. */
function offerSources(status, sources) {
  const select = byId("heat-of");
  keyed(select, sources.map(([key, words]) => [key, words]),
    (words, key) => ({ node: el("option", { value: key, text: words }) }), (row, words) => put(row.node, words));
  const keys = sources.map(([key]) => key);
  if (!keys.includes(heat.chosen)) heat.moved = false;
  if (heat.moved) return;
  const growth = (read) => (recent(read) ?? []).reduce((sum, [, count]) => sum + count, 0);
  const [busiest] = sources.map(([key, , read]) => [key, growth(read), rankOf(key, status)]).sort((one, other) => other[2] - one[2] || other[1] - one[1]);
  heat.chosen = busiest?.[0] ?? null;
  // What was chosen once stays: a picture that changes its subject by itself is no picture.
  heat.moved = samples.length > 3 && busiest?.[1] > 0;
  select.value = heat.chosen ?? "";
}

/** Requests say more than connects, and connects more than how long sessions were kept open. */
function rankOf(key, status) {
  if (key.startsWith("pool ")) return 1;
  const listener = status.listeners[key.slice("listener ".length)];
  return key.startsWith("listener ") && listener.mode === "http" && listener.latency ? 2 : 0;
}

/** Where a bound stands on the ladder 1-1.5-2-3-5-7, six a decade. */
function ladder(le) {
  const digits = String(le).replace(/0+$/, "");
  return (String(le).length - 1) * 6 + { 1: 0, 15: 1, 2: 2, 3: 3, 5: 4, 7: 5 }[digits];
}

/** The same for any time, between the bounds by ratio. */
function ladderAt(us) {
  const steps = [1, 1.5, 2, 3, 5, 7, 10];
  const decade = Math.floor(Math.log10(us));
  const mantissa = us / 10 ** decade;
  const below = Math.max(0, steps.findLastIndex((step) => step <= mantissa && step < 10));
  return decade * 6 + below + Math.log(mantissa / steps[below]) / Math.log(steps[below + 1] / steps[below]);
}

const RAMPS = {
  dark: [[21, 33, 38], [16, 66, 74], [18, 110, 112], [44, 160, 143], [130, 209, 160], [244, 244, 190]],
  light: [[238, 243, 241], [196, 226, 219], [127, 196, 187], [58, 152, 151], [20, 100, 116], [10, 48, 70]],
};

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function rampColour(ramp, share) {
  const at = Math.min(ramp.length - 1.0001, Math.max(0, share * (ramp.length - 1)));
  const [low, high] = [ramp[Math.floor(at)], ramp[Math.floor(at) + 1]];
  return `rgb(${low.map((part, n) => Math.round(part + (high[n] - part) * (at % 1))).join(" ")})`;
}

/** Counts of several columns together, in order of their bounds. */
function together(columns) {
  const sums = new Map();
  for (const { counts } of columns) for (const [le, count] of counts) sums.set(le, (sums.get(le) ?? 0) + count);
  return [...sums].sort(([one], [other]) => one - other);
}

/** The frame of the picture: what part of it shows what. */
function heatFrame(canvas, columns) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const newest = columns.at(-1)?.at ?? 0;
  const age = columns.length > 0 ? (newest - columns[0].at) / 1000 : 0;
  const seconds = Math.min(HEAT_SECONDS, Math.max(HEAT_SECONDS_LEAST, Math.ceil(age / 30) * 30));
  const rungs = columns.flatMap(({ counts }) => counts.map(([le]) => ladder(le)));
  let [low, high] = rungs.length > 0 ? [Math.min(...rungs) - 1, Math.max(...rungs)] : [12, 30];
  const missing = HEAT_ROWS_LEAST - (high - low);
  if (missing > 0) [low, high] = [low - Math.floor(missing / 2), high + Math.ceil(missing / 2)];
  const [left, right, top, bottom] = [54, width - 1, 6, height - 22];
  const step = (bottom - top) / (high - low);
  return {
    width, height, left, right, top, bottom, low, high, step, seconds, newest,
    x: (at) => right - ((newest - at) / 1000 / seconds) * (right - left),
    y: (rung) => bottom - (rung - low) * step,
    perSecond: (right - left) / seconds,
  };
}

function drawHeat() {
  const canvas = byId("heat");
  const columns = heat.columns.get(heat.chosen) ?? [];
  const frame = heatFrame(canvas, columns);
  if (frame.width === 0) return;
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(frame.width * scale);
  canvas.height = Math.round(frame.height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const ramp = RAMPS[isDark() ? "dark" : "light"];
  const style = getComputedStyle(canvas);
  pen.fillStyle = rampColour(ramp, 0);
  pen.fillRect(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top);
  drawCells(pen, frame, columns, ramp);
  drawAxes(pen, frame, style);
  drawLine(pen, frame, columns, 0.5, isDark() ? "#ffffff" : "#0b2530", []);
  drawLine(pen, frame, columns, 0.99, isDark() ? "#ff9d5c" : "#c2410c", [5, 3]);
  drawCursor(pen, frame, columns, style);
  byId("ramp").style.background = `linear-gradient(90deg, ${ramp.map((_, at) => rampColour(ramp, at / (ramp.length - 1))).join(", ")})`;
  sayHeat(columns);
}

function drawCells(pen, frame, columns, ramp) {
  const most = Math.max(1, ...columns.flatMap(({ counts, span }) => counts.map(([, count]) => count / span)));
  const whole = (n) => Math.round(n * devicePixelRatio) / devicePixelRatio;
  for (const { at, span, counts } of columns) {
    const right = whole(frame.x(at));
    // After a pause there is one long column, which would say more than is known.
    const left = Math.max(frame.left, whole(frame.x(at - Math.min(span, 3) * 1000)));
    if (right <= frame.left) continue;
    for (const [le, count] of counts) {
      const share = Math.log1p(count / span) / Math.log1p(most);
      pen.fillStyle = rampColour(ramp, 0.12 + 0.88 * share);
      const [top, bottom] = [whole(frame.y(ladder(le))), whole(frame.y(ladder(le) - 1))];
      pen.fillRect(left, top, right - left, bottom - top);
    }
  }
}

function drawAxes(pen, frame, style) {
  pen.font = `11px ${style.fontFamily}`;
  pen.fillStyle = style.color;
  pen.strokeStyle = isDark() ? "rgb(255 255 255 / 12%)" : "rgb(0 0 0 / 10%)";
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let rung = Math.ceil(frame.low / 6) * 6; rung <= frame.high; rung += 6) {
    const y = Math.round(frame.y(rung)) + 0.5;
    pen.fillText(latencyText(10 ** (rung / 6) / 1000).replace(/\.0+(?= )/, ""), frame.left - 7, y);
    pen.beginPath();
    pen.moveTo(frame.left, y);
    pen.lineTo(frame.right, y);
    pen.stroke();
  }
  pen.textBaseline = "top";
  const step = frame.seconds > 120 ? 60 : frame.seconds > 60 ? 30 : 15;
  for (let ago = 0; ago <= frame.seconds; ago += step) {
    const x = frame.x(frame.newest - ago * 1000);
    pen.textAlign = ago === 0 ? "right" : ago === frame.seconds ? "left" : "center";
    pen.fillText(ago === 0 ? "now" : ago % 60 === 0 ? `−${ago / 60} min` : `−${ago} s`, x, frame.bottom + 7);
  }
}

/** A percentile over time. */
function drawLine(pen, frame, columns, share, colour, dash) {
  pen.save();
  pen.beginPath();
  pen.rect(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top);
  pen.clip();
  pen.beginPath();
  let drawn = false;
  columns.forEach(({ at, span }, n) => {
    const ms = quantile(together(columns.slice(Math.max(0, n - LINE_OVER + 1), n + 1)), share);
    if (ms === null) {
      drawn = false;
      return;
    }
    const [x, y] = [frame.x(at - span * 500), frame.y(ladderAt(ms * 1000))];
    if (drawn) pen.lineTo(x, y);
    else pen.moveTo(x, y);
    drawn = true;
  });
  pen.setLineDash(dash);
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.lineJoin = "round";
  pen.stroke();
  pen.restore();
}

function cursorColumn(columns) {
  if (heat.cursor === null || columns.length === 0) return null;
  const at = columns.at(-1).at - heat.cursor * 1000;
  return columns.reduce((best, one) => (Math.abs(one.at - at) < Math.abs(best.at - at) ? one : best));
}

function drawCursor(pen, frame, columns, style) {
  const column = cursorColumn(columns);
  if (!column) return;
  pen.strokeStyle = style.color;
  pen.lineWidth = 1;
  const x = Math.round(frame.x(column.at - column.span * 500)) + 0.5;
  pen.beginPath();
  pen.moveTo(x, frame.top);
  pen.lineTo(x, frame.bottom);
  pen.stroke();
}

/** The picture in words, of the column under the cursor or of the last minute. */
function sayHeat(columns) {
  const column = cursorColumn(columns);
  const newest = columns.at(-1)?.at ?? 0;
  const chosen = column ? [column] : columns.filter(({ at }) => newest - at < RECENT * 1000);
  const counts = together(chosen);
  const all = counts.reduce((sum, [, count]) => sum + count, 0);
  const when = column ? (newest === column.at ? "Last second" : `${spanText((newest - column.at) / 1000)} ago`) : "Last minute";
  const times = [0.5, 0.9, 0.99].map((share) => `p${share * 100} ${latencyText(quantile(counts, share))}`).join(", ");
  const most = all === 0 ? "" : `, none above ${latencyText(counts.at(-1)[0] / 1000)}`;
  put(byId("heat-words"), all === 0 ? `${when}: nothing was timed.` : `${when}: ${countText(all)} timed, ${times}${most}.`);
}

/** Pointer and arrow keys choose a moment. */
function followHeat() {
  const canvas = byId("heat");
  const move = (ago) => {
    heat.cursor = ago === null ? null : Math.min(HEAT_SECONDS, Math.max(0, ago));
    drawHeat();
  };
  canvas.addEventListener("pointermove", (event) => {
    const frame = heatFrame(canvas, heat.columns.get(heat.chosen) ?? []);
    move((frame.right - event.offsetX) / frame.perSecond);
  });
  canvas.addEventListener("pointerleave", () => move(null));
  canvas.addEventListener("blur", () => move(null));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: 1, ArrowRight: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (event.key === "Escape") move(null);
    if (!step) return;
    event.preventDefault();
    move((heat.cursor ?? 0) + step);
  });
  byId("heat-of").addEventListener("change", (event) => {
    [heat.chosen, heat.moved] = [event.target.value, true];
    drawHeat();
  });
}

