// One dataserver: what the gateway knows of it, and what happened to it last.

const details = { addr: null, asked: 0, pending: false, again: false };

function buildDetails() {
  const dialog = $('details');
  $('details-close').addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  dialog.addEventListener('close', () => {
    details.addr = null;
    history.replaceState(null, '', location.pathname);
  });
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (wanted.includes(':')) openDetails(wanted);
}

function openDetails(addr) {
  details.addr = addr;
  setText($('details-title'), addr);
  $('details-state').replaceChildren();
  $('details-facts').replaceChildren();
  $('details-events').replaceChildren();
  note('');
  history.replaceState(null, '', `#${encodeURIComponent(addr)}`);
  if (!$('details').open) $('details').showModal();
  askDetails();
}

// Asks again; at most one question is on its way, so that a slow answer is not overtaken.
async function askDetails() {
  if (details.addr === null) return;
  if (details.pending) {
    details.again = true;
    return;
  }
  details.pending = true;
  details.asked = performance.now();
  const { addr } = details;
  try {
    const path = `${location.pathname.replace(/\/$/, '')}/${encodeURIComponent(addr)}`;
    const answer = await fetch(path, { headers: { accept: 'application/json' }, cache: 'no-store' });
    const told = await answer.json();
    if (details.addr === addr) drawDetails(answer.status, told);
  } catch {
    if (details.addr === addr) note('The gateway does not answer.');
  }
  details.pending = false;
  if (details.again) {
    details.again = false;
    askDetails();
  }
}

function note(text) {
  $('details-note').hidden = text === '';
  setText($('details-note'), text);
}

function drawDetails(status, told) {
  const isThere = status === 200;
  if (!isThere && !told.events) {
    $('details-state').replaceChildren();
    note(`${told.title}: ${told.detail}`);
    return;
  }
  $('details-state').replaceChildren(statePill(isThere ? told.state : 'gone'));
  note(isThere ? '' : 'It has left the set; the last event says why. This is known for ten minutes.');
  const facts = isThere ? [
    ['Speaks', told.protocol],
    ['Process', told.process ?? 'does not say'],
    ['In the set since', moment(Date.parse(told.first_seen))],
    ['Last heartbeat', `${age(told.age_seconds * 1000)} ago`],
    ['Heartbeats', count(told.heartbeats)],
    ['Answers', count(told.requests)],
    ['Failures', count(told.failures)],
    ['In flight', count(told.in_flight)],
  ] : [];
  const list = facts.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value)));
  $('details-facts').replaceChildren(...list);
  const events = told.events.map((event) => make('li', {},
    eventShape(event.kind), moment(Date.parse(event.at)), make('span', { className: 'what' }, event.what)));
  $('details-events').replaceChildren(...events.reverse());
}

// Keeps what is shown true: when something happened to it, and every few seconds.
function followDetails(events) {
  if (details.addr === null) return;
  const isMeant = events.some(([, , addr]) => addr === details.addr);
  if (isMeant || performance.now() - details.asked > 2500) askDetails();
}
