//! What one message does to the live set.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::signed::Signed;
use crate::addr::Dialable;
use crate::heartbeat::{Heartbeat, Refusal};
use crate::metrics::Metrics;
use crate::protocol::Protocol;
use crate::registry::{Beat, Reason, Recorded, Registry};

/// Every label of `gateway_heartbeats_total{result}`.
pub const RESULTS: [&str; TAKEN.len() + Refusal::ALL.len()] = {
    let mut results = [""; TAKEN.len() + Refusal::ALL.len()];
    let mut n = 0;
    while n < results.len() {
        #[expect(clippy::indexing_slicing, reason = "at compile time")]
        {
            results[n] = if n < TAKEN.len() { TAKEN[n] } else { Refusal::ALL[n - TAKEN.len()].label() };
        }
        n += 1;
    }
    results
};

/// What came of a heartbeat that could be read.
const TAKEN: [&str; 9] = [JOINED, REFRESHED, DRAINING, GOODBYE, STALE, SUPERSEDED, CONFLICT, FULL, JOIN_RATE];

const JOINED: &str = "joined";
const REFRESHED: &str = "refreshed";
const DRAINING: &str = "draining";
const GOODBYE: &str = "goodbye";
const STALE: &str = "stale";
const SUPERSEDED: &str = "superseded";
const CONFLICT: &str = "conflict";
const FULL: &str = "full";
const JOIN_RATE: &str = "join_rate";

/// A bad heartbeat comes every few seconds, for as long as its sender lives: one line a minute tells of it.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Takes messages in. Nothing that is in a message makes it fail.
pub struct Intake {
    registry: Registry,
    metrics: Metrics,
    dialable: Dialable,
    rules: ArcSwap<Rules>,
    logged: Mutex<HashMap<&'static str, Instant>>,
}

struct Rules {
    /// What a dataserver speaks that does not say.
    protocol: Protocol,
    /// Set, none is taken that is not signed.
    signed: Option<Arc<Signed>>,
}

/// A message as nsqd delivered it.
pub(super) struct Message<'a> {
    pub(super) body: &'a [u8],
    /// How long before it was received nsqd took it in.
    pub(super) age: Duration,
    pub(super) received: Instant,
    pub(super) nsqd: &'a str,
}

impl Intake {
    /// Takes messages into this registry; `dialable` is where dataservers may be, `protocol` what one speaks that does
    /// not say, and `signed`, if it is there, who has the right key.
    pub fn new(
        registry: Registry,
        metrics: Metrics,
        dialable: Dialable,
        protocol: Protocol,
        signed: Option<Arc<Signed>>,
    ) -> Self {
        let rules = ArcSwap::from_pointee(Rules { protocol, signed });
        Self { registry, metrics, dialable, rules, logged: Mutex::default() }
    }

    /// From the next message on these hold. What a dataserver speaks that is in the set follows with its next heartbeat.
    pub fn reconfigure(&self, protocol: Protocol, signed: Option<Arc<Signed>>) {
        self.rules.store(Arc::new(Rules { protocol, signed }));
    }

    pub(super) fn take(&self, message: &Message<'_>) {
        let result = match self.decode(message) {
            Ok(heartbeat) => self.record(&heartbeat, message),
            Err(refusal) => {
                let label = refusal.label();
                if self.may_log(label) {
                    let body = excerpt(message.body);
                    tracing::warn!(reason = label, nsqd = message.nsqd, body, "heartbeat refused: {refusal}");
                }
                label
            }
        };
        self.metrics.heartbeat(result);
    }

    fn decode(&self, message: &Message<'_>) -> Result<Heartbeat, Refusal> {
        let heartbeat = Heartbeat::decode(message.body)?;
        if let Some(signed) = &self.rules.load().signed {
            signed.check(&heartbeat, message.received)?;
        }
        // What a host name leads to is judged when it is resolved, before it is dialled.
        match heartbeat.addr.socket_addr() {
            Some(target) if self.dialable.is_own(target) => Err(Refusal::OwnListener),
            Some(target) if !self.dialable.allows(target.ip()) => Err(Refusal::NotAllowed),
            _ => Ok(heartbeat),
        }
    }

    fn record(&self, heartbeat: &Heartbeat, message: &Message<'_>) -> &'static str {
        let Heartbeat { addr, protocol, phase, incarnation, .. } = heartbeat;
        let (protocol, incarnation) =
            (protocol.unwrap_or_else(|| self.rules.load().protocol), incarnation.as_ref());
        let Message { age, received, nsqd, .. } = *message;
        // A machine that booted less than `age` ago has no such instant; then it is stale all the same.
        let recorded = received.checked_sub(age).map_or(Recorded::Stale, |sent| {
            let beat = Beat { addr, protocol, phase: *phase, incarnation, sent, nsqd };
            self.registry.record(&beat, received)
        });
        if matches!(recorded, Recorded::Joined | Recorded::Refreshed | Recorded::Draining) {
            self.metrics.heartbeat_taken();
        }
        let (dataserver, age_seconds) = (addr, age.as_secs_f64());
        match recorded {
            Recorded::Joined => {
                self.metrics.joined();
                tracing::info!(%dataserver, %protocol, nsqd, age_seconds, "dataserver joined");
                JOINED
            }
            Recorded::Refreshed => {
                tracing::trace!(%dataserver, nsqd, "heartbeat");
                REFRESHED
            }
            Recorded::Draining => {
                tracing::debug!(%dataserver, nsqd, "dataserver drains");
                DRAINING
            }
            Recorded::Left => {
                self.metrics.evicted(Reason::Goodbye.label());
                tracing::info!(%dataserver, nsqd, "dataserver left: it said goodbye");
                GOODBYE
            }
            Recorded::Superseded => {
                tracing::debug!(%dataserver, nsqd, age_seconds, "a heartbeat of a process that is no more");
                SUPERSEDED
            }
            Recorded::Stale => {
                if self.may_log(STALE) {
                    tracing::warn!(
                        %dataserver, nsqd, age_seconds, "heartbeats are older than registry.ttl: a backlog, or the clock of an nsqd that cannot be asked"
                    );
                }
                STALE
            }
            Recorded::Conflict => {
                if self.may_log(CONFLICT) {
                    tracing::warn!(
                        %dataserver, nsqd, "two processes claim this address; the newer one has it"
                    );
                }
                CONFLICT
            }
            Recorded::Full => {
                if self.may_log(FULL) {
                    tracing::warn!(%dataserver, "registry.capacity is reached: new dataservers are not taken");
                }
                FULL
            }
            Recorded::TooFast => {
                if self.may_log(JOIN_RATE) {
                    tracing::warn!(%dataserver, "registry.join_rate is reached: new dataservers are not taken");
                }
                JOIN_RATE
            }
        }
    }

    fn may_log(&self, what: &'static str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = logged.get(what).is_none_or(|last| now.saturating_duration_since(*last) >= LOG_EVERY);
        if due {
            logged.insert(what, now);
        }
        due
    }
}

/// Enough of a body to recognise it, and nothing that disturbs a terminal.
fn excerpt(body: &[u8]) -> String {
    let head = body.get(..64).unwrap_or(body);
    let dots = if head.len() < body.len() { "…" } else { "" };
    format!("{}{dots}", head.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Networks, OwnListeners};
    use crate::registry::Settings;

    fn intake() -> (Intake, Registry) {
        let registry =
            Registry::new(Settings { capacity: 2, join_rate: 3, trusted_joins: 3, ..Settings::default() });
        let metrics = Metrics::new(0, &RESULTS, &[Reason::Goodbye.label()]).unwrap();
        let own = OwnListeners::new(vec!["127.0.0.1:9000".parse().unwrap()]);
        let allow = ["loopback", "private"].map(|network| network.parse().unwrap());
        let dialable = Dialable::new(own, Some(Networks::new(allow.to_vec())));
        (Intake::new(registry.clone(), metrics, dialable, Protocol::Http1, None), registry)
    }

    fn take(intake: &Intake, body: &str, age_secs: u64) {
        let (age, received) = (Duration::from_secs(age_secs), Instant::now());
        intake.take(&Message { body: body.as_bytes(), age, received, nsqd: "test:4150" });
    }

    /// The counts that are not 0.
    fn counts(intake: &Intake) -> Vec<String> {
        let text = intake.metrics.render(&crate::metrics::Scrape { dataservers: &[], frozen: false });
        let lines = text.lines().filter_map(|line| line.strip_prefix("gateway_heartbeats_total{result="));
        lines.filter(|line| !line.ends_with(" 0")).map(ToOwned::to_owned).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_end_of_a_message_is_counted_by_its_own_name() {
        let process = |id: &str, seq: u64, state: &str| {
            format!(r#"{{"addr":"10.0.0.1:1","id":"{id}","seq":{seq},"state":"{state}"}}"#)
        };
        for (before, body, age_secs, result) in [
            (&[][..], "10.0.0.1:1", 0, "joined"),
            (&["10.0.0.1:1"], "10.0.0.1:1", 1, "refreshed"),
            (&[], "10.0.0.2:1", 11, "stale"),
            (&["10.0.0.1:1", "10.0.0.2:1"], "10.0.0.3:1", 0, "full"),
            (&[&process("a", 1, "up")], &process("a", 2, "draining"), 0, "draining"),
            (&[&process("a", 1, "up")], &process("a", 2, "down"), 0, "goodbye"),
            (&[&process("a", 1, "up"), &process("a", 3, "down")], &process("a", 2, "up"), 0, "superseded"),
            (&[&process("a", 1, "up"), &process("b", 1, "up")], &process("a", 2, "up"), 0, "conflict"),
            (&[], "127.0.0.1:9000", 0, "refused_own_listener"),
            (&[], "192.0.2.1:1", 0, "refused_not_allowed"),
            (&[], "[2001:db8::1]:1", 0, "refused_not_allowed"),
            // What it leads to is asked when it is dialled.
            (&[], "db1.example.com:1", 0, "joined"),
            (&[], "", 0, "refused_empty"),
            (&[], r#"{"addr":"10.0.0.1:1","proto":"h3"}"#, 0, "refused_proto"),
            (&[], "169.254.169.254:80", 0, "refused_addr_forbidden"),
        ] {
            let (intake, _) = intake();
            for body in before {
                take(&intake, body, 1);
            }
            let counted = counts(&intake);
            take(&intake, body, age_secs);
            let news: Vec<_> = counts(&intake).into_iter().filter(|line| !counted.contains(line)).collect();
            assert!(
                matches!(&news[..], [line] if line.starts_with(&format!("\"{result}\"}} "))),
                "{body}: {news:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_new_ones_at_once_are_counted_so() {
        let (intake, registry) = intake();
        for n in 1..=4 {
            // None stays, so that there is room for the next.
            for (seq, state) in [(1, "up"), (2, "down")] {
                let body = format!(r#"{{"addr":"10.0.0.{n}:1","id":"x","seq":{seq},"state":"{state}"}}"#);
                take(&intake, &body, 0);
            }
        }
        assert!(counts(&intake).contains(&"\"join_rate\"} 1".to_owned()), "{:?}", counts(&intake));
        assert!(registry.list(Instant::now()).is_empty());
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        assert_eq!(excerpt(b"a\r\n\x1b[2J"), "a\\r\\n\\x1b[2J");
        assert!(excerpt(&[0; 4096]).len() < 300);
    }
}
