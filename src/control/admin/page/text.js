// How numbers, times and shares read. All of it is pure.

const NONE = "–";

const grouped = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** A whole number: all digits up to 9,999, then three. */
function countText(n) {
  if (n === null || n === undefined) return NONE;
  return n < 10_000 ? grouped.format(Math.round(n)) : compact.format(n);
}

/** Something a second. */
function rateText(n) {
  if (n === null || n === undefined) return NONE;
  if (n === 0) return "0";
  return n < 9.95 ? n.toFixed(1) : countText(n);
}

function bytesText(n) {
  if (n === null || n === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${at === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[at]}`;
}

/** Three digits of µs, ms or s. */
function latencyText(ms) {
  if (ms === null || ms === undefined) return NONE;
  const digits = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${digits(ms)} ms`;
  return `${digits(ms / 1000)} s`;
}

/** The two largest units of a time. */
function spanText(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const [d, h, m] = [Math.floor(s / 86_400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${m} min`;
  if (m > 0) return `${m} min ${s % 60} s`;
  return `${s} s`;
}

/** How long ago a moment was, by the instance's clock. */
function agoText(at, now) {
  const seconds = (now - Date.parse(at)) / 1000;
  if (Number.isNaN(seconds)) return "";
  return seconds < 1.5 ? "just now" : `${spanText(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

function timeText(date) {
  const two = (n) => String(n).padStart(2, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function shareText(share) {
  return `${(share * 100).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;
}

function plural(n, one, many = `${one}s`) {
  return `${countText(n)} ${n === 1 ? one : many}`;
}

