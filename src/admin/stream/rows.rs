//! Each dataserver, and what of it has changed since it was told.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::form::{Clock, millis, rate};
use super::graph::per_second;
use crate::addr::Addr;
use crate::registry::{Entry, Registry, Totals};

/// How many there is room for on the page.
const MOST: usize = 20_000;

/// Rates are those of about so many of the last seconds: of single seconds they would be a flicker.
const SMOOTHED_OVER: f64 = 4.0;

/// The moment of the last heartbeat, which is told from how long it is ago, may be off by so much.
const HEARD_AGAIN: i64 = 100;

/// Everybody who was told of, by the number of the entry.
#[derive(Default)]
pub(super) struct Rows {
    by_id: HashMap<u64, Row>,
    /// Grows with each look at the set.
    look: u64,
    looked_at: Option<Instant>,
    /// Those that are new, those that are not the same, and those that were not seen any more.
    arrived: Vec<u64>,
    changed: Vec<u64>,
    pub(super) gone: Vec<u64>,
    pub(super) left_out: usize,
}

struct Row {
    addr: Addr,
    protocol: &'static str,
    seen: u64,
    counted: Counted,
    rates: Option<Rates>,
    told: Changed,
}

/// What is counted of a dataserver.
#[derive(Clone, Copy)]
struct Counted {
    requests: u64,
    errors: u64,
    ended: u64,
    took: Duration,
}

/// The same a second.
#[derive(Clone, Copy)]
struct Rates {
    requests: f64,
    errors: f64,
    ended: f64,
    took: f64,
}

/// What changes of a dataserver: its number, its state, when it was heard last, answers and failures a second,
/// requests under way, and the mean time of an answer in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Changed(u64, &'static str, i64, Option<f64>, Option<f64>, u64, Option<f64>);

/// One that is new: its address, what it speaks, and the rest.
#[derive(Serialize)]
pub(super) struct New<'a>(&'a str, &'static str, Changed);

impl Rows {
    /// Looks at everybody in the set.
    pub(super) fn look(&mut self, registry: &Registry, clock: Clock, now: Instant) {
        self.look += 1;
        let passed = self.looked_at.replace(now).map(|before| now.saturating_duration_since(before));
        let passed = passed.filter(|passed| !passed.is_zero());
        for list in [&mut self.arrived, &mut self.changed, &mut self.gone] {
            list.clear();
        }
        self.left_out = 0;
        registry.each(now, |entry, silence| {
            let heard = clock.millis(now) - i64::try_from(silence.as_millis()).unwrap_or(i64::MAX);
            self.see(entry, heard, passed);
        });
        let (look, gone) = (self.look, &mut self.gone);
        self.by_id.retain(|id, row| {
            let is_there = row.seen == look;
            if !is_there {
                gone.push(*id);
            }
            is_there
        });
    }

    fn see(&mut self, entry: &Entry, heard: i64, passed: Option<Duration>) {
        let (id, has_room) = (entry.id(), self.by_id.len() < MOST);
        let totals = entry.traffic().totals();
        let protocol = entry.protocol().as_str();
        match self.by_id.get_mut(&id) {
            Some(row) => {
                row.seen = self.look;
                row.count(&totals, passed);
                let now = row.now(entry, heard, totals.in_flight);
                if row.protocol != protocol {
                    (row.protocol, row.told) = (protocol, now);
                    self.arrived.push(id);
                } else if row.told != now {
                    row.told = now;
                    self.changed.push(id);
                }
            }
            None if !has_room => self.left_out += 1,
            None => {
                let told = Changed(id, entry.state().label(), heard, None, None, totals.in_flight, None);
                let counted = Counted::of(&totals);
                let row =
                    Row { addr: entry.addr().clone(), protocol, seen: self.look, counted, rates: None, told };
                self.by_id.insert(id, row);
                self.arrived.push(id);
            }
        }
    }

    pub(super) fn looked_at(&self) -> Option<Instant> {
        self.looked_at
    }

    /// Everybody.
    pub(super) fn all(&self) -> Vec<New<'_>> {
        self.by_id.values().map(Row::as_new).collect()
    }

    /// Those that were new at the last look.
    pub(super) fn arrived(&self) -> Vec<New<'_>> {
        self.arrived.iter().filter_map(|id| self.by_id.get(id)).map(Row::as_new).collect()
    }

    /// What changed of the others.
    pub(super) fn changed(&self) -> Vec<Changed> {
        self.changed.iter().filter_map(|id| self.by_id.get(id)).map(|row| row.told).collect()
    }
}

impl Row {
    fn as_new(&self) -> New<'_> {
        New(self.addr.as_str(), self.protocol, self.told)
    }

    fn count(&mut self, totals: &Totals, passed: Option<Duration>) {
        let counted = Counted::of(totals);
        if let Some(passed) = passed {
            let new = counted.rates_since(&self.counted, passed);
            self.rates = Some(self.rates.map_or(new, |rates| rates.followed_by(new, passed)));
            self.counted = counted;
        }
    }

    fn now(&self, entry: &Entry, heard: i64, in_flight: u64) -> Changed {
        let was_heard = self.told.2;
        let heard = if (heard - was_heard).abs() < HEARD_AGAIN { was_heard } else { heard };
        let latency = self.rates.as_ref().and_then(Rates::latency);
        let [requests, errors] = [|rates: Rates| rates.requests, |rates: Rates| rates.errors]
            .map(|of| self.rates.map(of).map(rate));
        Changed(entry.id(), entry.state().label(), heard, requests, errors, in_flight, latency)
    }
}

impl Counted {
    fn of(totals: &Totals) -> Self {
        let [.., answered_5xx] = totals.answers;
        Self {
            requests: totals.requests(),
            errors: totals.failures() + answered_5xx,
            ended: totals.ended,
            took: totals.took,
        }
    }

    fn rates_since(&self, before: &Self, passed: Duration) -> Rates {
        let per_second = |now: u64, before: u64| per_second(now.saturating_sub(before), passed);
        Rates {
            requests: per_second(self.requests, before.requests),
            errors: per_second(self.errors, before.errors),
            ended: per_second(self.ended, before.ended),
            took: self.took.saturating_sub(before.took).as_secs_f64() / passed.as_secs_f64(),
        }
    }
}

impl Rates {
    /// Smoothed: those of the last seconds count most.
    fn followed_by(self, new: Self, passed: Duration) -> Self {
        let share = 1.0 - (-passed.as_secs_f64() / SMOOTHED_OVER).exp();
        let mix = |before: f64, now: f64| before + share * (now - before);
        Self {
            requests: mix(self.requests, new.requests),
            errors: mix(self.errors, new.errors),
            ended: mix(self.ended, new.ended),
            took: mix(self.took, new.took),
        }
    }

    /// In milliseconds; `None` if nothing has ended of late.
    fn latency(&self) -> Option<f64> {
        (rate(self.ended) > 0.0).then(|| millis(Duration::from_secs_f64(self.took / self.ended)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(seconds: &[(u64, u64)]) -> Rates {
        let nothing = Counted { requests: 0, errors: 0, ended: 0, took: Duration::ZERO };
        let passed = Duration::from_secs(1);
        let mut rates = None::<Rates>;
        for (requests, millis) in seconds {
            let took = Duration::from_millis(requests * millis);
            let new = Counted { requests: *requests, ended: *requests, took, ..nothing }
                .rates_since(&nothing, passed);
            rates = Some(rates.map_or(new, |rates| rates.followed_by(new, passed)));
        }
        rates.unwrap()
    }

    #[test]
    fn rates_begin_at_what_is_and_follow_it() {
        assert!((rates(&[(100, 5)]).requests - 100.0).abs() < 1e-9);
        let risen = rates(&[(100, 5), (200, 5), (200, 5), (200, 5), (200, 5)]).requests;
        assert!((150.0..190.0).contains(&risen), "{risen}");
    }

    #[test]
    fn the_latency_is_that_of_the_requests_and_not_of_the_seconds() {
        let latency = rates(&[(1, 1000), (999, 1)]).latency().unwrap();
        assert!((1.0..10.0).contains(&latency), "{latency}");
        assert_eq!(rates(&[(0, 0)]).latency(), None);
    }

    #[test]
    fn after_the_last_request_all_is_quiet_in_the_end() {
        let mut seconds = vec![(1000, 5)];
        seconds.extend([(0, 0); 50]);
        let rates = rates(&seconds);
        assert_eq!((rate(rates.requests), rates.latency()), (0.0, None));
    }
}
