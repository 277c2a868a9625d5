// How things are written. Text from outside is only ever put into text nodes.

const SVG = 'http://www.w3.org/2000/svg';
const $ = (id) => document.getElementById(id);

// An element with these properties, attributes among them where no property has their name, and children.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function shape(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const use = document.createElementNS(SVG, 'use');
  svg.setAttribute('class', 'shape');
  svg.setAttribute('aria-hidden', 'true');
  use.setAttribute('href', `#shape-${name}`);
  svg.append(use);
  return svg;
}

// Touches the document only if there is something new: what is read aloud or selected stays as it is.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat('en', { minimumFractionDigits: 1, maximumFractionDigits: 1 });

const count = (n) => whole.format(n);
const rate = (n) => (n === null ? '–' : n === 0 ? '0' : n < 100 ? tenths.format(n) : whole.format(n));
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;

// A time in milliseconds, with three digits at most.
function latency(ms) {
  if (ms === null) return '–';
  if (ms < 10) return `${ms.toFixed(2)} ms`;
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(2)} s`;
}

// How long something is ago, in milliseconds.
function age(ms) {
  const seconds = Math.max(0, ms) / 1000;
  return seconds < 100 ? `${tenths.format(seconds)} s` : duration(ms);
}

function duration(ms) {
  const seconds = Math.round(Math.max(0, ms) / 1000);
  const parts = [[Math.floor(seconds / 86400), 'd'], [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'], [seconds % 60, 's']];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return '0 s';
  return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(' ');
}

const clockTime = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const dateTime = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });

// A moment by the wall clock, in milliseconds since 1970: the time of day, and the date if it is not of today.
function moment(wall) {
  const date = new Date(wall);
  const text = Date.now() - wall < 12 * 3600e3 ? clockTime.format(date) : dateTime.format(date);
  return make('time', { dateTime: date.toISOString(), title: dateTime.format(date) }, text);
}

const STATES = {
  live: { name: 'Live', order: 3 },
  suspect: { name: 'Suspect', order: 1 },
  draining: { name: 'Draining', order: 2 },
  ejected: { name: 'Ejected', order: 0 },
  gone: { name: 'Gone', order: 4 },
};

const stateOf = (state) => (Object.hasOwn(STATES, state) ? state : 'suspect');

function statePill(state) {
  const known = stateOf(state);
  return make('span', { className: `state ${known}` }, shape(known), STATES[known].name);
}

// The shape and colour of an event, by the word for it.
const EVENT_SHAPES = {
  joined: 'live', restored: 'live', serving: 'live', probe_passed: 'live', flowing: 'live',
  suspect: 'suspect', probe_failed: 'suspect', gap: 'suspect', conflict: 'suspect',
  draining: 'draining', replaced: 'note', ejected: 'ejected', evicted: 'gone', left: 'gone',
  frozen: 'held', thawing: 'held', degraded: 'held', paused: 'held',
};

function eventShape(kind) {
  const name = Object.hasOwn(EVENT_SHAPES, kind) ? EVENT_SHAPES[kind] : 'note';
  return make('span', { className: `state ${name}` }, shape(name));
}
