// What the last answers of the instance said, so that totals become rates, and distributions since
// the start become those of the last minute.

const SECONDS_KEPT = 62;
const RATE_OVER = 5;
const RECENT = 60;

/** Answers with the moment they came, the oldest first. */
let samples = [];

/** Keeps an answer; forgets all others if it is of another process. */
function remember(status, at) {
  const last = samples.at(-1);
  if (last && last.status.pid !== status.pid) samples = [];
  samples.push({ at, status });
  while (samples.length > 2 && at - samples[0].at > SECONDS_KEPT * 1000) samples.shift();
}

/** The sample that is `seconds` older than the newest, at least the one before it if there is one. */
function sampleBefore(seconds) {
  const from = samples.at(-1).at - seconds * 1000 - 250;
  const at = samples.findIndex((sample) => sample.at >= from);
  return samples[Math.max(0, Math.min(at, samples.length - 2))];
}

/** How fast a total grows, a second; `null` while that is not known. */
function rateOf(read, over = RATE_OVER) {
  const [newest, before] = [samples.at(-1), sampleBefore(over)];
  if (before === newest) return null;
  const [now, then] = [read(newest.status), read(before.status)];
  if (now === undefined || then === undefined) return null;
  return Math.max(0, now - then) / ((newest.at - before.at) / 1000);
}

/** By how much a total grew in the last minute; all of it if there was none of it then. */
function grownBy(read) {
  const now = read(samples.at(-1).status) ?? 0;
  const then = read(sampleBefore(RECENT).status);
  return then === undefined ? now : Math.max(0, now - then);
}

/** `now` without `then`: counts by bound, `[[le_us, count], …]`. */
function difference(now, then) {
  if (!now) return [];
  const old = new Map(then ? then.le_us.map((le, at) => [le, then.counts[at]]) : []);
  return now.le_us.map((le, at) => [le, Math.max(0, now.counts[at] - (old.get(le) ?? 0))]);
}

/** What is in a distribution of the last minute; of the whole time before a second answer. */
function recent(read) {
  const [newest, before] = [samples.at(-1), sampleBefore(RECENT)];
  const [now, then] = [read(newest.status), read(before.status)];
  const counts = difference(now, before === newest ? null : then);
  return counts.some(([, count]) => count > 0) ? counts : null;
}

/** The lower bound of the bucket under `le`: bounds are 1-1.5-2-3-5-7. */
function boundBelow(le) {
  const digits = Number(String(le).replace(/0+$/, ""));
  const lower = { 1: 0.7, 15: 10, 2: 1.5, 3: 2, 5: 3, 7: 5 }[digits] ?? digits / 1.5;
  return le * (lower / digits);
}

/** The value in ms that `share` of the counted ones do not exceed, between the bounds by ratio. */
function quantile(counts, share) {
  const all = counts?.reduce((sum, [, count]) => sum + count, 0) ?? 0;
  if (all === 0) return null;
  let left = share * all;
  for (const [le, count] of counts) {
    if (count >= left && count > 0) {
      const low = boundBelow(le);
      return (low * (le / low) ** (left / count)) / 1000;
    }
    left -= count;
  }
  return counts.at(-1)[0] / 1000;
}

/** Named curves, a point an answer; `null` is none. */
const CURVE_LENGTH = 90;
const curves = new Map();

function curve(name, value) {
  const values = curves.get(name) ?? [];
  if (value !== null) values.push(value);
  if (values.length > CURVE_LENGTH) values.shift();
  curves.set(name, values);
  return values;
}

