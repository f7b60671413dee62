// Asking the instance: its token, its status every second, its events as they happen.

const POLL_EVERY = 1000;
const POLL_SLOWEST = 10_000;
const ANSWER_WITHIN = 8000;

/** Storage is refused to some pages of some browsers; then the token lives as long as the page. */
const store = {
  get: (area, key) => {
    try {
      return area()?.getItem(key) ?? null;
    } catch {
      return null;
    }
  },
  set: (area, key, value) => {
    try {
      if (value === null) area().removeItem(key);
      else area().setItem(key, value);
    } catch {
      // Then it is not kept.
    }
  },
};

const inTab = () => sessionStorage;
const inBrowser = () => localStorage;

let token = store.get(inTab, "sluicegate-token");

function setToken(value) {
  token = value;
  store.set(inTab, "sluicegate-token", value);
  byId("forget").hidden = token === null;
}

function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", ...options, headers });
}

/** Why the instance refused, in its own words where it has some. */
async function refusalOf(response) {
  const said = await response.text().catch(() => "");
  try {
    return JSON.parse(said).detail ?? `status ${response.status}`;
  } catch {
    return `status ${response.status}`;
  }
}

/** Asks for a token; what waited goes on when there is one. */
function needToken() {
  const dialog = byId("ask-token");
  if (dialog.open) return;
  put(byId("token-error"), token === null ? "" : "This token is not one of this instance's.");
  setToken(null);
  dialog.showModal();
  byId("token").focus();
}

const polling = { busy: false, again: false, timer: 0, failures: 0, failedSince: null };

/** Asks for the status now, and from then on every second, one question at a time. */
async function poll() {
  clearTimeout(polling.timer);
  if (polling.busy) {
    polling.again = true;
    return;
  }
  polling.busy = true;
  const answer = await askStatus().catch((error) => ({ error }));
  polling.busy = false;
  let wait = POLL_EVERY;
  if (answer.error) {
    polling.failures += 1;
    polling.failedSince ??= new Date();
    wait = Math.min(POLL_SLOWEST, POLL_EVERY * 2 ** (polling.failures - 1));
    showUnreachable(polling.failedSince, answer.error);
  } else if (answer.status) {
    polling.failures = 0;
    polling.failedSince = null;
    showStatus(answer.status, answer.now);
  } else {
    needToken();
    return;
  }
  if (polling.again) wait = 0;
  polling.again = false;
  polling.timer = setTimeout(poll, wait);
}

/** The status and what time it is there; nothing if a token is needed. */
async function askStatus() {
  const response = await ask("/v1/status", { signal: AbortSignal.timeout(ANSWER_WITHIN) });
  if (response.status === 401) return {};
  if (!response.ok) throw new Error(await refusalOf(response));
  const status = await response.json();
  const now = Date.parse(response.headers.get("date") ?? "");
  return { status, now: Number.isNaN(now) ? Date.now() : now };
}

/** What was heard of `/v1/events`. */
const stream = { last: null, pid: null, words: "", abort: null, timer: 0 };

/** Reads events for as long as the instance sends them, then begins again where it was. */
async function listen(wait = POLL_EVERY) {
  clearTimeout(stream.timer);
  stream.abort?.abort();
  stream.abort = new AbortController();
  const { signal } = stream.abort;
  const headers = { Accept: "text/event-stream", "Last-Event-ID": String(stream.last ?? 0) };
  let next = wait;
  try {
    const response = await ask("/v1/events", { headers, signal });
    if (response.status === 401) return; // The status asks for the token.
    if (response.status === 404) {
      stream.words = "This instance does not tell its events.";
      return;
    }
    if (!response.ok) throw new Error(await refusalOf(response));
    stream.words = "";
    next = POLL_EVERY;
    await readEvents(response.body.pipeThrough(new TextDecoderStream()).getReader());
  } catch (error) {
    if (signal.aborted) return;
    stream.words = `Events are not to be had: ${error.message}`;
    next = Math.min(POLL_SLOWEST, wait * 2);
  } finally {
    showEvents();
  }
  if (!signal.aborted) stream.timer = setTimeout(listen, wait, next);
}

/** Server-sent events: fields a line each, an empty line ends one. */
async function readEvents(reader) {
  let [rest, id, data] = ["", null, []];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\r|\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("id:")) id = line.slice(3).trim();
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      if (line !== "" || data.length === 0) continue;
      const event = JSON.parse(data.join("\n"));
      data = [];
      stream.last = id ?? stream.last;
      hearEvent({ ...event, number: id ?? event.seq });
    }
  }
}

/** Another process counts its events from the beginning. */
function followProcess(pid) {
  if (stream.pid === pid) return;
  const restarted = stream.pid !== null;
  stream.pid = pid;
  if (restarted) {
    stream.last = null;
    forgetEvents();
  }
  listen();
}

