// Changing a server: what each change means, the question before it, the request.

/** Why nothing can be changed here; empty while nobody has said so. */
let forbidden = "";

/** What is asked about at the moment. */
let pending = null;

/** States that can be asked for, as buttons have them. */
const CHANGES = [
  ["ready", "Ready"],
  ["drain", "Drain"],
  ["maint", "Maint"],
];

/** Which of them a server has been asked to be in. */
function wishOf(server) {
  const said = server.admin ?? server.override?.state ?? server.state;
  if (said === "draining" || said === "drain") return "drain";
  return said === "maint" ? "maint" : "ready";
}

function meaningOf(change, server, others) {
  const running = server.active > 0 ? ` What runs there now (${countText(server.active)}) may end by itself.` : "";
  const alone = server.state === "up" && others === 0 ? " No other server of this pool is up." : "";
  if (change === "drain") return `It gets nothing new; its checks go on.${running}${alone}`;
  if (change === "maint") return `It gets nothing new and is no longer checked.${running}${alone}`;
  return "It gets its share again as soon as its checks pass.";
}

/** Asks before a server changes its state. */
function askState(change, pool, name, server, others) {
  const word = CHANGES.find(([key]) => key === change)[1];
  openConfirm({
    title: `${word} ${name}?`,
    text: `Server ${name} of pool ${pool}. ${meaningOf(change, server, others)}`,
    button: change === "ready" ? "Make ready" : word,
    weight: null,
    path: serverPath(pool, name),
    said: `${pool}/${name}: ${word.toLowerCase()}`,
    body: () => ({ state: change }),
  });
}

/** Asks for another weight. */
function askWeight(pool, name, server) {
  const file = server.configured?.weight ?? server.weight;
  const other = file === server.weight ? "" : `; the file says ${file}`;
  openConfirm({
    title: `Weight of ${name}`,
    text: `Server ${name} of pool ${pool} has weight ${server.weight}${other}. Its share of what is new is its weight among those of all servers that are up.`,
    button: "Set weight",
    weight: server.weight,
    path: serverPath(pool, name),
    said: `${pool}/${name}: weight`,
    body: () => ({ weight: byId("weight").valueAsNumber }),
  });
}

function serverPath(pool, name) {
  return `/v1/pools/${encodeURIComponent(pool)}/servers/${encodeURIComponent(name)}`;
}

function openConfirm(change) {
  pending = change;
  put(byId("confirm-title"), change.title);
  put(byId("confirm-text"), change.text);
  put(byId("confirm-yes"), change.button);
  put(byId("confirm-error"), "");
  byId("confirm-weight").hidden = change.weight === null;
  const weight = byId("weight");
  weight.disabled = change.weight === null;
  if (change.weight !== null) weight.value = change.weight;
  byId("confirm").showModal();
  if (change.weight === null) byId("confirm-yes").focus();
  else weight.select();
}

async function confirmed(event) {
  event.preventDefault();
  const [change, button] = [pending, byId("confirm-yes")];
  button.disabled = true;
  try {
    const response = await ask(change.path, {
      method: "PATCH",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(change.body()),
    });
    if (response.ok) {
      byId("confirm").close();
      say(`${change.said}: done.`);
      poll();
      return;
    }
    if (response.status === 401) needToken();
    const why = await refusalOf(response);
    // Not about this server but about all of them: the buttons would only disappoint.
    if ([403, 405, 501].includes(response.status)) forbid(why);
    put(byId("confirm-error"), `Not changed: ${why}.`);
  } catch (error) {
    put(byId("confirm-error"), `Not changed: ${error.message}.`);
  } finally {
    button.disabled = forbidden !== "";
  }
}

function forbid(why) {
  forbidden = why;
  byId("confirm-yes").disabled = why !== "";
  const note = byId("refusal");
  note.hidden = why === "";
  put(note, why && `Servers cannot be changed here: ${why}.`);
  for (const button of document.querySelectorAll(".acts button, .weight button")) {
    button.disabled = why !== "";
    mark(button, "title", why || null);
  }
}

/** A short word at the lower edge, for eyes and screen readers. */
function say(text) {
  const said = byId("said");
  put(said, text);
  said.dataset.on = "";
  clearTimeout(said.timer);
  said.timer = setTimeout(() => {
    delete said.dataset.on;
    put(said, "");
  }, 4000);
}

