// What the gateway tells: all of it at first, then each second what has changed.

const SILENCE = 6000; // ms, after which a stream that should speak each second is lost
const GONE_SHOWN = 30e3; // ms that one which left the set is still shown
const MOST_GONE = 100;
const MOST_EVENTS = 200;

const model = {
  known: false,
  // The gateway's clock at the last message, in milliseconds, and what its wall clock said.
  now: 0,
  wall: 0,
  set: { name: '', ttl: 10000, hold: ['flowing', '', null], not_ready: null, left_out: 0 },
  heldSince: null,
  nsqds: [],
  load: { in_flight: 0, connections: 0 },
  graph: [],
  rows: new Map(),
  gone: new Map(),
  // Newest first: [number, wall, addr, kind, text].
  events: [],
  version: null,
};

const link = { source: null, heard: 0, lostAt: null, why: '', retry: null };

function listen(onTold, onLink) {
  clearTimeout(link.retry);
  link.source?.close();
  link.heard = performance.now();
  const source = new EventSource(location.pathname);
  link.source = source;
  const take = (follow) => (event) => {
    link.heard = performance.now();
    const events = follow(JSON.parse(event.data));
    if (document.body.dataset.link !== 'live') {
      Object.assign(link, { lostAt: null, why: '' });
      onLink('live');
    }
    onTold(events);
  };
  source.addEventListener('state', take(takeState));
  source.addEventListener('delta', take(takeDelta));
  source.onerror = () => {
    lost(onLink);
    // A browser tries again by itself, unless it was refused.
    if (source.readyState !== EventSource.CLOSED) return;
    explain(onLink);
    link.retry = setTimeout(() => listen(onTold, onLink), 5000);
  };
}

function watchLink(onTold, onLink) {
  setInterval(() => {
    if (performance.now() - link.heard < SILENCE || link.source?.readyState === EventSource.CLOSED) return;
    lost(onLink);
    listen(onTold, onLink);
  }, 2000);
}

function lost(onLink) {
  link.lostAt ??= Date.now();
  onLink('lost');
}

// Why the gateway refuses.
async function explain(onLink) {
  const stop = new AbortController();
  try {
    const answer = await fetch(location.pathname, { headers: { accept: 'text/event-stream' }, signal: stop.signal });
    if (!answer.ok) {
      const problem = await answer.json();
      link.why = `${problem.title}: ${problem.detail}`;
      onLink('lost');
    }
  } catch {
    // It does not answer at all, which is told already.
  }
  stop.abort();
}

function takeState(told) {
  model.known = true;
  model.version = told.page;
  model.rows.clear();
  model.gone.clear();
  takeCommon(told);
  model.graph = told.graph;
  told.rows.forEach(takeNew);
  const seen = model.events[0]?.[0] ?? -1;
  const isSameGateway = told.events.some(([number, wall]) =>
    model.events.some((event) => event[0] === number && Math.abs(event[1] - wall) < 2000));
  if (!isSameGateway) model.events = [];
  takeEvents(told.events.filter(([number]) => !isSameGateway || number > seen));
  return []; // they are not of now
}

function takeDelta(told) {
  takeCommon(told);
  if (told.sample) model.graph.push(told.sample);
  if (model.graph.length > POINTS) model.graph.shift();
  told.new?.forEach(takeNew);
  told.changed?.forEach(takeChanged);
  told.gone?.forEach(takeGone);
  for (const [id, at] of model.gone) {
    if (model.now - at < GONE_SHOWN && model.gone.size <= MOST_GONE) break; // those that follow went later
    model.gone.delete(id);
    model.rows.delete(id);
  }
  return takeEvents(told.events ?? []);
}

function takeCommon(told) {
  model.now = told.now;
  model.wall = told.wall;
  if (told.set) {
    model.set = told.set;
    const [, , since] = told.set.hold;
    model.heldSince = since === null ? null : told.wall - (told.now - since);
  }
  model.nsqds = told.nsqds ?? model.nsqds;
  model.load = told.load;
}

function takeNew([addr, protocol, changed]) {
  const [id] = changed;
  if (model.gone.size > 0) {
    for (const gone of model.gone.keys()) {
      if (model.rows.get(gone)?.addr !== addr) continue;
      model.gone.delete(gone);
      model.rows.delete(gone);
    }
  }
  // Numbers in it are compared by their value.
  const key = addr.replace(/\d+/g, (digits) => digits.padStart(5, '0'));
  model.rows.set(id, { id, addr, key, protocol });
  takeChanged(changed);
}

function takeChanged([id, state, heard, requests, errors, inFlight, latency]) {
  const row = model.rows.get(id);
  if (row) Object.assign(row, { state: stateOf(state), heard, requests, errors, inFlight, latency });
}

function takeGone(id) {
  const row = model.rows.get(id);
  if (!row) return;
  Object.assign(row, { state: 'gone', requests: null, errors: null, inFlight: 0, latency: null });
  model.gone.set(id, model.now);
}

function takeEvents(events) {
  for (const event of events) {
    const skipped = event[0] - (model.events[0]?.[0] ?? event[0] - 1) - 1;
    // Of a flood only the last are told.
    if (skipped > 0) model.events.unshift([event[0] - 1, event[1], null, 'skipped', `${plural(skipped, 'more event')}`]);
    model.events.unshift(event);
  }
  model.events.length = Math.min(model.events.length, MOST_EVENTS);
  return events;
}
