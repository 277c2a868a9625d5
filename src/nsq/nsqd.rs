//! One nsqd, besides its messages: its clock, and whether somebody else reads our channel there.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::clock::{NsqdClock, WallClock};
use super::stats::{Question, Said, StatsError};
use crate::config::Endpoint;
use crate::metrics::NsqdLink;

/// An offset of a clock that differs by more from the one that was logged is logged.
const OFFSET_TOLD: f64 = 1.0;

/// So many polls may fail before a measured clock is judged by its messages alone.
const POLLS_TRUSTED: u32 = 3;

/// How nsqds are asked over HTTP.
pub(super) struct Polls {
    pub(super) question: Question,
    pub(super) interval: Duration,
}

/// An nsqd that is read, for as long as it is wanted.
pub(super) struct Nsqd {
    /// Its TCP side, by which it is known.
    pub(super) name: String,
    pub(super) link: NsqdLink,
    http: watch::Sender<Endpoint>,
    polls: Arc<Polls>,
    clock: Mutex<NsqdClock>,
    told: Mutex<Told>,
}

/// What was logged last, so that each change is logged once.
#[derive(Default)]
struct Told {
    offset_seconds: f64,
    http_fails: bool,
    shared: bool,
    /// Whether the poll before found others' consumers.
    others_before: bool,
}

impl Nsqd {
    pub(super) fn new(
        name: String,
        http: Endpoint,
        wall: WallClock,
        polls: Arc<Polls>,
        link: NsqdLink,
    ) -> Self {
        let measured_for = POLLS_TRUSTED * (polls.interval + polls.question.within);
        let clock = Mutex::new(NsqdClock::new(wall, measured_for));
        Self { name, link, http: watch::Sender::new(http), polls, clock, told: Mutex::default() }
    }

    /// Its HTTP side is here.
    pub(super) fn set_http(&self, http: &Endpoint) {
        self.http.send_if_modified(|known| {
            let moved = known != http;
            if moved {
                known.clone_from(http);
            }
            moved
        });
    }

    /// How long before `received` it took in a message; see [`NsqdClock::age`].
    pub(super) fn age(&self, stamp: u64, attempts: u16, received: Instant) -> Duration {
        lock(&self.clock).age(stamp, attempts, received)
    }

    /// Asks what must be known before the first message of a connection is taken; what was measured before may have
    /// been another's clock.
    pub(super) async fn ask_anew(&self) {
        lock(&self.clock).unmeasured();
        self.ask().await;
    }

    /// Asks again and again, for as long as it is polled.
    pub(super) async fn watch(&self) -> Infallible {
        let mut http = self.http.subscribe();
        loop {
            let pause = self.polls.interval.mul_f64(rand::rng().random_range(0.9..1.1));
            tokio::select! {
                () = sleep(pause) => {}
                _ = http.changed() => {}
            }
            self.ask().await;
        }
    }

    async fn ask(&self) {
        let http = self.http.borrow().clone();
        let said = self.polls.question.ask(&http).await;
        if let Ok(Said { date: Some(date), asked, answered, .. }) = said {
            lock(&self.clock).measured(date, asked, answered);
        }
        self.tell_http(&http, said.as_ref().err());
        self.tell_clock();
        if let Ok(said) = said {
            self.tell_others(said.others);
        }
    }

    fn tell_http(&self, http: &Endpoint, error: Option<&StatsError>) {
        let (mut told, nsqd) = (lock(&self.told), &self.name);
        match error {
            Some(error) if !told.http_fails => tracing::info!(
                nsqd, %http,
                "this nsqd cannot be asked over HTTP, so its clock is judged by its messages alone: {error}"
            ),
            None if told.http_fails => tracing::info!(nsqd, %http, "this nsqd can be asked over HTTP"),
            _ => {}
        }
        told.http_fails = error.is_some();
    }

    fn tell_clock(&self) {
        let offset_seconds = lock(&self.clock).offset_seconds(Instant::now());
        self.link.set_clock_offset(offset_seconds);
        let (mut told, nsqd, offset_seconds) = (lock(&self.told), &self.name, offset_seconds.unwrap_or(0.0));
        if (offset_seconds - told.offset_seconds).abs() <= OFFSET_TOLD {
            return;
        }
        told.offset_seconds = offset_seconds;
        if offset_seconds.abs() > OFFSET_TOLD {
            tracing::warn!(
                nsqd,
                offset_seconds,
                "the clocks of this nsqd and the gateway differ; ages are corrected for that"
            );
        } else {
            tracing::info!(nsqd, offset_seconds, "the clocks of this nsqd and the gateway agree again");
        }
    }

    /// Once may be somebody who is about to leave, or whom nsqd has not noticed to be gone.
    fn tell_others(&self, others: usize) {
        let (mut told, nsqd, channel) = (lock(&self.told), &self.name, &self.polls.question.channel);
        let shared = others > 0 && told.others_before;
        told.others_before = others > 0;
        self.link.set_channel_shared(shared);
        if shared && !told.shared {
            tracing::warn!(
                nsqd,
                channel,
                others,
                "others read this gateway's channel: each gets only a part of the heartbeats; \
                 nsq.channel must be another one for each gateway, or none"
            );
        } else if told.shared && !shared {
            tracing::info!(nsqd, channel, "nobody else reads this gateway's channel any more");
        }
        told.shared = shared;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
