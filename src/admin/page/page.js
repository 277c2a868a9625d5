// The page as a whole.

const tally = () => {
  const states = { live: 0, suspect: 0, draining: 0, ejected: 0, gone: 0 };
  for (const row of model.rows.values()) states[row.state] += 1;
  return { ...states, all: model.rows.size - states.gone };
};

let drawing = false;
let announced = 0;
let unannounced = [];

function told(events) {
  followOrder();
  followDetails(events);
  unannounced.push(...events);
  drawSoon();
}

// Once for all that is told until the browser draws; not at all while nobody sees it, but for the title.
function drawSoon() {
  drawTitle(tally());
  if (drawing || document.hidden) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw() {
  const counts = tally();
  setText($('name'), model.set.name || 'Gateway');
  setText($('version'), `nsq-gateway ${model.set.version ?? ''}`);
  setText($('headline'), headline(counts));
  for (const state of ['all', ...Object.keys(STATES)]) setText($(`count-${state}`), count(counts[state]));
  $('count-gone').parentElement.hidden = counts.gone === 0 && table.state !== 'gone';
  setText($('ttl'), `TTL ${duration(model.set.ttl)}`);
  drawTiles(counts);
  drawTable();
  drawNsqds();
  drawEvents();
  drawBanners(counts);
  announce();
}

function headline(counts) {
  if (!model.known) return '';
  if (counts.all === 0) return 'No dataservers';
  return `${count(counts.live)} of ${count(counts.all)} live`;
}

// How it stands, worst first: what the tab's icon shows, and the words before the title.
function standing(counts) {
  if (document.body.dataset.link !== 'live') return ['unknown', 'not connected'];
  if (model.set.not_ready === 'draining') return ['held', 'draining'];
  if (model.set.not_ready) return ['down', 'not ready'];
  const hold = model.set.hold[0];
  if (hold !== 'flowing') return ['held', hold];
  return [counts.live < counts.all ? 'some' : 'fine', ''];
}

const ICONS = {
  fine: '<circle cx="8" cy="8" r="7" fill="#1f9d5d"/>',
  some: '<path d="M8 1 15.5 15H.5z" fill="#d08700"/>',
  held: '<path d="M2 1h5v14H2zM9 1h5v14H9z" fill="#3b7ddd"/>',
  down: '<path d="M5 1h6l4 4v6l-4 4H5l-4-4V5zM4 7v2h8V7z" fill="#d43c31" fill-rule="evenodd"/>',
  unknown: '<circle cx="8" cy="8" r="5.5" fill="none" stroke="#808890" stroke-width="3"/>',
};

function drawTitle(counts) {
  const [icon, words] = standing(counts);
  const title = [words, headline(counts), model.set.name].filter(Boolean).join(' · ');
  if (document.title !== title) document.title = title;
  const svg = `<svg xmlns="${SVG}" viewBox="0 0 16 16">${ICONS[icon]}</svg>`;
  setAttribute(document.querySelector('link[rel=icon]'), 'href', `data:image/svg+xml,${encodeURIComponent(svg)}`);
}

function drawTiles(counts) {
  const column = (index) => model.graph.map((sample) => sample[index]);
  const [requests, errors, p50, p99] = model.graph.at(-1) ?? [null, null, null, null];
  setText($('live-now'), model.known ? count(counts.live) : '–');
  setText($('live-of'), `of ${count(counts.all)}`);
  setText($('requests-now'), rate(requests));
  setText($('load'), `${count(model.load.in_flight)} in flight, ${plural(model.load.connections, 'connection')}`);
  const share = requests > 0 ? (errors / requests) * 100 : 0;
  setText($('errors-now'), requests === null ? '–' : share === 0 ? '0' : share < 0.1 ? '<0.1' : tenths.format(share));
  setText($('errors-rate'), errors > 0 ? `${rate(errors)} /s` : '');
  $('errors-tile').classList.toggle('bad', errors > 0);
  setText($('p50-now'), latency(p50));
  setText($('p99-now'), latency(p99));
  drawGraph($('live-graph'), 'Live dataservers', count, column(4));
  drawGraph($('requests-graph'), 'Requests a second', rate, column(0));
  const shares = model.graph.map(([all, bad]) => (all > 0 ? (bad / all) * 100 : 0));
  drawGraph($('errors-graph'), 'Errors in percent', (n) => `${tenths.format(n)} %`, shares);
  drawGraph($('latency-graph'), 'Latency, p50 and p99', latency, column(2), column(3));
}

function drawNsqds() {
  const items = model.nsqds.map(({ addr, connected, since, offset, shared }) => {
    const state = make('span', { className: `state ${connected ? 'live' : 'ejected'}` },
      shape(connected ? 'live' : 'ejected'), connected ? 'Connected' : 'Not connected');
    const facts = [`for ${duration(model.now - since)}`];
    if (offset !== null && Math.abs(offset) >= 1) {
      const by = Math.abs(offset);
      facts.push(`clock ${by < 1000 ? `${by} ms` : age(by)} ${offset > 0 ? 'ahead' : 'behind'}`);
    }
    const item = make('li', {}, make('code', {}, addr), state, make('small', {}, facts.join(', ')));
    if (shared) item.append(make('small', { className: 'bad' }, 'others read its channel, too: each gets only a part'));
    return item;
  });
  if (items.length === 0 && model.known) items.push(make('li', {}, make('small', {}, 'No nsqd is known.')));
  patchList($('nsqds'), items);
}

// Replaces what is not the same any more.
function patchList(list, items) {
  items.forEach((item, index) => {
    const shown = list.children[index];
    if (!shown) list.append(item);
    else if (!shown.isEqualNode(item)) shown.replaceWith(item);
  });
  while (list.children.length > items.length) list.lastChild.remove();
}

function drawEvents() {
  const list = $('events');
  const shown = Number(list.dataset.newest ?? -1);
  const newest = model.events[0]?.[0] ?? -1;
  if (newest < shown) list.replaceChildren(); // another gateway's
  const fresh = model.events.filter(([number]) => newest < shown || number > shown);
  list.prepend(...fresh.map(eventItem));
  while (list.children.length > MOST_EVENTS) list.lastChild.remove();
  if (list.children.length === 0 && model.known) list.append(make('li', { className: 'quiet' }, 'Nothing has happened yet.'));
  if (fresh.length > 0) list.querySelector('.quiet')?.remove();
  list.dataset.newest = String(newest);
}

function eventItem([, wall, addr, kind, text]) {
  const item = make('li', {}, eventShape(kind), moment(wall));
  if (addr !== null) {
    const button = make('button', { type: 'button', className: 'addr' }, addr);
    button.addEventListener('click', () => openDetails(addr));
    item.append(button);
  }
  item.append(make('span', { className: 'what' }, text));
  return item;
}

function drawBanners(counts) {
  const banners = [];
  const add = (kind, title, text, ...more) => banners.push(
    make('p', { className: `banner ${kind}` }, shape(kind), make('strong', {}, title), ` ${text}`, ...more));
  const { hold: [hold, sentence], not_ready: notReady, left_out: leftOut } = model.set;
  if (document.body.dataset.link === 'lost') {
    const since = clockTime.format(new Date(link.lostAt ?? Date.now()));
    const why = link.why || (notReady === 'draining' ? 'The gateway was told to stop' : '');
    add('ejected', 'Not connected.', `${why}${why && '. '}What you see is of ${since}; the page tries again by itself.`);
  } else if (notReady === 'draining') {
    add('draining', 'Draining.', 'The gateway is about to stop: what is under way may end, nothing new comes in.');
  } else if (notReady) {
    add('ejected', 'Not ready.', `${capital(notReady)}: users get 503.`);
  }
  if (hold !== 'flowing') {
    const since = model.heldSince === null ? '' : ` Since ${clockTime.format(model.heldSince)}.`;
    add('held', `${capital(hold)}.`, `${capital(sentence)}.${since}`);
  }
  const paused = model.events.find(([, wall, , kind]) => kind === 'paused' && model.wall - wall < 60e3);
  if (paused) add('held', 'Paused.', `${capital(paused[4])}.`);
  if (leftOut > 0) add('note', 'Not all are shown.', `${count(leftOut)} more dataservers are in the set; /dataservers as JSON has them all.`);
  if (model.version !== null && model.version !== document.documentElement.dataset.version) {
    const button = make('button', { type: 'button' }, 'Load the new one');
    button.addEventListener('click', () => location.reload());
    add('note', 'The gateway has a newer page.', '', button);
  }
  if (model.known && counts.all > 0 && counts.live === 0 && !notReady) {
    add('ejected', 'Nobody is live.', 'Requests go to those that are doubted.');
  }
  patchList($('banners'), banners);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// For those who hear the page: not each event of a flood, but the worst of the last seconds and how many there were.
function announce() {
  const now = performance.now();
  if (unannounced.length === 0 || now - announced < 4000) return;
  const loudness = ([, , , kind]) => ['probe_passed', 'joined', 'restored', 'gap', 'replaced', 'serving', 'draining', 'left',
    'suspect', 'probe_failed', 'ejected', 'evicted', 'paused', 'flowing', 'degraded', 'thawing', 'frozen'].indexOf(kind);
  const worst = unannounced.reduce((a, b) => (loudness(b) >= loudness(a) ? b : a));
  const more = unannounced.length - 1;
  const said = `${worst[2] ?? 'The set'}: ${worst[4]}${more > 0 ? `; and ${plural(more, 'more event')}` : ''}`;
  setText($('announcer'), said);
  announced = now;
  unannounced = [];
}

function linked(state) {
  document.body.dataset.link = state;
  setText($('link'), state === 'live' ? 'Connected' : 'Not connected');
  drawSoon();
}

setText($('here'), location.origin + location.pathname);
buildTable(openDetails);
buildDetails();
document.addEventListener('visibilitychange', drawSoon);
document.addEventListener('keydown', (event) => {
  const isTyping = event.target.matches?.('input');
  if (event.key === '/' && !isTyping && !$('details').open) {
    event.preventDefault();
    $('search').focus();
  } else if (event.key === 'Escape' && event.target === $('search')) {
    $('search').value = '';
    $('search').dispatchEvent(new Event('input'));
  }
});
draw();
listen(told, linked);
watchLink(told, linked);
