// What happened, the newest first.

const EVENTS_KEPT = 500;
const EVENTS_SHOWN = 120;

let heardEvents = [];
let eventsWanted = "";

/** Shapes of events that are about a state; the rest has a dot. */
const EVENT_STATES = {
  "server-up": "up",
  "server-down": "down",
  "server-ejected": "ejected",
  "server-drained": "draining",
  "server-maint": "maint",
  "server-ready": "up",
  "breaker-opened": "down",
  "breaker-closed": "up",
  "worker-recovered": "up",
  draining: "draining",
  ready: "up",
};

function eventState(kind) {
  if (EVENT_STATES[kind]) return EVENT_STATES[kind];
  if (/fail|kept|stall|stuck|refus/.test(kind)) return "down";
  return "note";
}

function forgetEvents() {
  heardEvents = [];
}

/** One more; what it is about has changed, so the status is asked at once. */
function hearEvent(event) {
  if (heardEvents.some((other) => other.number === event.number && other.at === event.at)) return;
  heardEvents.unshift(event);
  heardEvents.length = Math.min(heardEvents.length, EVENTS_KEPT);
  if (!hearEvent.waits) {
    // Many may come together, above all the first time.
    hearEvent.waits = true;
    setTimeout(() => {
      hearEvent.waits = false;
      showEvents();
      if (samples.length > 0) poll();
    }, 50);
  }
}

function showEvents() {
  const wanted = eventsWanted.toLowerCase();
  const matching = heardEvents.filter(({ kind, text }) => `${kind} ${text}`.toLowerCase().includes(wanted));
  const make = (event) => {
    const at = new Date(event.at);
    const time = el("time", { datetime: event.at, title: String(event.at), text: Number.isNaN(at.getTime()) ? "" : timeText(at) });
    const state = eventState(String(event.kind));
    const kind = el("span", { class: "kind" }, shape(state), el("span", { text: String(event.kind) }));
    const node = el("li", { "data-state": state }, time, kind, el("span", { class: "what", text: String(event.text ?? "") }));
    return { node };
  };
  keyed(byId("event-list"), matching.slice(0, EVENTS_SHOWN).map((event) => [`${event.number} ${event.at}`, event]), make, () => {});
  const hidden = matching.length - EVENTS_SHOWN;
  const none = heardEvents.length === 0 ? "Nothing has happened yet." : "No event is like that.";
  const words = matching.length === 0 ? none : hidden > 0 ? `${plural(hidden, "older event")} not shown.` : "";
  put(byId("events-words"), stream.words || words);
}

