// The table of dataservers: what is shown of them, in which order. Only the rows of one page are in the document.

const ROWS_SHOWN = 100;

const COLUMNS = [
  { id: 'state', name: 'State', value: (row) => STATES[row.state].order, first: 1 },
  { id: 'addr', name: 'Address', value: (row) => row.key, first: 1 },
  { id: 'heard', name: 'Last heartbeat', value: (row) => -row.heard, first: -1 },
  { id: 'requests', isNumber: true, name: 'Requests', unit: '/s', value: (row) => row.requests ?? -1, first: -1 },
  { id: 'errors', isNumber: true, name: 'Errors', unit: '/s', value: (row) => row.errors ?? -1, first: -1 },
  { id: 'inFlight', isNumber: true, name: 'In flight', value: (row) => row.inFlight, first: -1 },
  { id: 'latency', isNumber: true, name: 'Latency', unit: 'mean', value: (row) => row.latency ?? -1, first: -1 },
];

const table = {
  sortBy: COLUMNS[0],
  direction: 1,
  state: 'all',
  search: '',
  page: 0,
  // The ids in the order that they are shown in.
  order: [],
  // The row that the keyboard is at, among those of the page.
  current: 0,
  // While somebody points at the rows, or is in them with the keyboard, they stay where they are.
  pointed: false,
  slots: [],
};

function buildTable(onOpen) {
  for (const column of COLUMNS) {
    const button = make('button', { type: 'button' }, column.name, ' ');
    if (column.unit) button.append(make('small', {}, column.unit));
    button.append(make('span', { className: 'arrow', ariaHidden: 'true' }));
    button.addEventListener('click', () => {
      table.direction = table.sortBy === column ? -table.direction : column.first;
      table.sortBy = column;
      reorder();
    });
    column.head = make('th', { scope: 'col', className: column.isNumber ? 'number' : '' }, button);
    if (column.id === 'heard') column.head.append(make('small', { id: 'ttl' }));
    $('columns').append(column.head);
  }
  for (const state of ['all', ...Object.keys(STATES)]) {
    const input = make('input', { type: 'radio', name: 'state', value: state, checked: state === 'all' });
    input.addEventListener('change', () => {
      table.state = state;
      reorder();
    });
    const label = make('label', { hidden: state === 'gone' }, input);
    if (state === 'all') label.append('All ');
    else label.append(make('span', { className: `state ${state}` }, shape(state)), `${STATES[state].name} `);
    label.append(make('b', { id: `count-${state}` }, '0'));
    $('filter').append(label);
  }
  $('search').addEventListener('input', (event) => {
    table.search = event.target.value.trim().toLowerCase();
    reorder();
  });
  const turn = (by) => {
    table.page += by;
    table.current = 0;
    drawTable();
  };
  $('pager-back').addEventListener('click', () => turn(-1));
  $('pager-on').addEventListener('click', () => turn(1));
  const rows = $('rows');
  const whole = rows.closest('table');
  const scroll = whole.parentElement;
  const room = new ResizeObserver(() => scroll.classList.toggle('fits', whole.offsetWidth <= scroll.clientWidth));
  room.observe(scroll);
  room.observe(whole);
  rows.addEventListener('pointerenter', () => { table.pointed = true; });
  rows.addEventListener('pointerleave', () => { table.pointed = false; });
  rows.addEventListener('click', (event) => {
    const at = event.target.closest('tr')?.sectionRowIndex ?? -1;
    const row = rowAt(at);
    if (!row) return;
    table.current = at;
    onOpen(row.addr);
  });
  rows.addEventListener('keydown', moveByKey);
  rows.addEventListener('focusin', (event) => {
    table.current = event.target.closest('tr').sectionRowIndex;
  });
}

function moveByKey(event) {
  const last = Math.min(ROWS_SHOWN, table.order.length - table.page * ROWS_SHOWN) - 1;
  const to = { ArrowDown: table.current + 1, ArrowUp: table.current - 1, Home: 0, End: last }[event.key];
  if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (to > last && (table.page + 1) * ROWS_SHOWN < table.order.length) {
    table.page += 1;
    table.current = 0;
  } else if (to < 0 && table.page > 0) {
    table.page -= 1;
    table.current = ROWS_SHOWN - 1;
  } else {
    table.current = Math.min(Math.max(to, 0), last);
  }
  drawTable();
  table.slots[table.current]?.button.focus();
}

const rowAt = (index) => model.rows.get(table.order[table.page * ROWS_SHOWN + index]);

// Where the first page of an order that somebody has asked for is shown.
function reorder() {
  table.page = 0;
  table.current = 0;
  table.order = sorted();
  drawTable();
}

function sorted() {
  const { sortBy: { value }, direction, state, search } = table;
  const rows = [];
  for (const row of model.rows.values()) {
    if ((state === 'all' || row.state === state) && row.addr.includes(search)) rows.push(row);
  }
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x !== y) return (x < y ? -1 : 1) * direction;
    return a.key < b.key ? -1 : 1;
  });
  return rows.map((row) => row.id);
}

// The order for what the rows are now; while they are held, those that are new come last.
function followOrder() {
  const wanted = sorted();
  if (!table.pointed && !$('rows').contains(document.activeElement)) {
    table.order = wanted;
    return;
  }
  const stay = new Set(wanted);
  const held = table.order.filter((id) => stay.has(id));
  const there = new Set(held);
  table.order = held.concat(wanted.filter((id) => !there.has(id)));
}

function drawTable() {
  const pages = Math.max(1, Math.ceil(table.order.length / ROWS_SHOWN));
  table.page = Math.min(Math.max(table.page, 0), pages - 1);
  const first = table.page * ROWS_SHOWN;
  const ids = table.order.slice(first, first + ROWS_SHOWN);
  table.current = Math.min(table.current, Math.max(ids.length - 1, 0));
  for (const column of COLUMNS) {
    const sort = table.direction > 0 ? 'ascending' : 'descending';
    setAttribute(column.head, 'aria-sort', column === table.sortBy ? sort : 'none');
  }
  const body = $('rows');
  const hadFocus = body.contains(document.activeElement);
  while (table.slots.length < ids.length) table.slots.push(makeSlot());
  ids.forEach((id, index) => fillSlot(table.slots[index], model.rows.get(id), index === table.current));
  while (body.children.length > ids.length) body.lastChild.remove();
  for (let index = body.children.length; index < ids.length; index += 1) body.append(table.slots[index].row);
  if (hadFocus && !body.contains(document.activeElement)) table.slots[table.current]?.button.focus();
  $('none').hidden = ids.length > 0 || !model.known;
  setText($('none'), model.rows.size === 0 ? 'No dataserver has been heard yet.' : 'No dataserver is like that.');
  $('pager').hidden = pages < 2;
  $('pager-back').disabled = table.page === 0;
  $('pager-on').disabled = table.page === pages - 1;
  const shown = `${count(first + 1)}–${count(first + ids.length)} of ${count(table.order.length)}`;
  setText($('pager-where'), shown);
}

function makeSlot() {
  const button = make('button', { type: 'button', className: 'addr' });
  const protocol = make('small', { className: 'protocol' });
  const fill = make('span', { className: 'fill' });
  const heard = make('span');
  const slot = { button, protocol, fill, heard, state: make('td'), stateShown: null };
  const number = (name) => (slot[name] = make('td', { className: 'number' }));
  slot.row = make('tr', {},
    slot.state,
    make('th', { scope: 'row' }, button, protocol),
    make('td', { className: 'heard' }, make('span', { className: 'track', ariaHidden: 'true' }, fill), heard),
    number('requests'), number('errors'), number('inFlight'), number('latency'));
  return slot;
}

// What is nothing stands back.
function setNumber(cell, value, write) {
  setText(cell, write(value));
  cell.classList.toggle('quiet', !value);
}

function fillSlot(slot, row, isCurrent) {
  if (slot.stateShown !== row.state) {
    slot.stateShown = row.state;
    slot.state.replaceChildren(statePill(row.state));
    slot.row.className = row.state;
  }
  setText(slot.button, row.addr);
  slot.button.tabIndex = isCurrent ? 0 : -1;
  setText(slot.protocol, row.protocol === 'http/1.1' ? '' : row.protocol);
  const silent = model.now - row.heard;
  const part = row.state === 'gone' ? 1 : Math.min(1, Math.max(0, silent / model.set.ttl));
  slot.fill.style.setProperty('--part', part.toFixed(3));
  slot.fill.className = part > 0.9 ? 'fill over' : part > 0.55 ? 'fill late' : 'fill';
  setText(slot.heard, age(silent));
  setNumber(slot.requests, row.requests, rate);
  setNumber(slot.errors, row.errors, rate);
  slot.errors.classList.toggle('bad', row.errors > 0);
  setNumber(slot.inFlight, row.inFlight, count);
  setNumber(slot.latency, row.latency, latency);
}
