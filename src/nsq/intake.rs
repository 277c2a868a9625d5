//! What one message does to the live set.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

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
const STALE: &str = "stale";
const FULL: &str = "full";
const DRAINING: &str = "draining";
const GOODBYE: &str = "goodbye";
const SUPERSEDED: &str = "superseded";
const CONFLICT: &str = "conflict";
const JOIN_RATE: &str = "join_rate";

/// A bad heartbeat comes every few seconds, for as long as its sender lives: one line a minute tells of it.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Takes messages in. Nothing that is in a message makes it fail.
pub struct Intake {
    registry: Registry,
    metrics: Metrics,
    dialable: Dialable,
    /// What a dataserver speaks that does not say.
    protocol: Protocol,
    /// Set, none is taken that is not signed.
    signed: Option<Signed>,
    logged: Mutex<HashMap<&'static str, Instant>>,
}

/// A message as nsqd delivered it.
pub(super) struct Message<'a> {
    pub(super) body: &'a [u8],
    /// Nanoseconds since 1970, by the clock of the nsqd that took it in.
    pub(super) timestamp: u64,
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
        signed: Option<Signed>,
    ) -> Self {
        Self { registry, metrics, dialable, protocol, signed, logged: Mutex::default() }
    }

    pub(super) fn take(&self, message: &Message<'_>) {
        let result = match self.decode(message.body) {
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

    fn decode(&self, body: &[u8]) -> Result<Heartbeat, Refusal> {
        let heartbeat = Heartbeat::decode(body)?;
        if let Some(signed) = &self.signed {
            signed.check(&heartbeat)?;
        }
        // A host name that leads here is seen through when it is resolved, before it is dialled.
        if heartbeat.addr.socket_addr().is_some_and(|target| self.dialable.is_own(target)) {
            return Err(Refusal::OwnListener);
        }
        Ok(heartbeat)
    }

    fn record(
        &self,
        Heartbeat { addr, protocol, phase, incarnation, .. }: &Heartbeat,
        message: &Message<'_>,
    ) -> &'static str {
        let now = Instant::now();
        let age = age(message.timestamp);
        // A machine that booted less than `age` ago has no such instant; then it is stale all the same.
        let protocol = protocol.unwrap_or(self.protocol);
        let recorded = now.checked_sub(age).map_or(Recorded::Stale, |sent| {
            self.registry.record(
                &Beat {
                    addr,
                    protocol,
                    phase: *phase,
                    incarnation: incarnation.as_ref(),
                    sent,
                    nsqd: message.nsqd,
                },
                now,
            )
        });
        match recorded {
            Recorded::Joined => {
                self.metrics.joined();
                self.metrics.heartbeat_taken();
                let age_seconds = age.as_secs_f64();
                tracing::info!(dataserver = %addr, %protocol, nsqd = message.nsqd, age_seconds, "dataserver joined");
                JOINED
            }
            Recorded::Refreshed => {
                self.metrics.heartbeat_taken();
                tracing::trace!(dataserver = %addr, nsqd = message.nsqd, "heartbeat");
                REFRESHED
            }
            Recorded::Stale => {
                if self.may_log(STALE) {
                    let age_seconds = age.as_secs_f64();
                    tracing::warn!(
                        dataserver = %addr, nsqd = message.nsqd, age_seconds,
                        "heartbeats are older than registry.ttl: a backlog, or clocks that differ"
                    );
                }
                STALE
            }
            Recorded::Draining => {
                self.metrics.heartbeat_taken();
                DRAINING
            }
            Recorded::Left => {
                self.metrics.evicted(Reason::Goodbye.label());
                tracing::info!(dataserver = %addr, nsqd = message.nsqd, "dataserver left: it said goodbye");
                GOODBYE
            }
            Recorded::Superseded => SUPERSEDED,
            Recorded::Conflict => {
                if self.may_log(CONFLICT) {
                    tracing::warn!(dataserver = %addr, "two processes claim this address; the newer one has it");
                }
                CONFLICT
            }
            Recorded::TooFast => {
                if self.may_log(JOIN_RATE) {
                    tracing::warn!(dataserver = %addr, "registry.join_rate is reached: new dataservers are not taken");
                }
                JOIN_RATE
            }
            Recorded::Full => {
                if self.may_log(FULL) {
                    tracing::warn!(dataserver = %addr, "registry.capacity is reached: new dataservers are not taken");
                }
                FULL
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

/// How long ago nsqd took the message in. A timestamp from the future is a clock that is ahead: no age.
fn age(timestamp: u64) -> Duration {
    let sent = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(timestamp));
    sent.and_then(|sent| SystemTime::now().duration_since(sent).ok()).unwrap_or_default()
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

    fn intake() -> (Intake, Registry) {
        let registry = Registry::new(crate::registry::Settings { capacity: 2, ..Default::default() });
        let metrics = Metrics::new(0, &RESULTS, &[]).unwrap();
        let own = crate::addr::OwnListeners::new(vec!["127.0.0.1:9000".parse().unwrap()]);
        (Intake::new(registry.clone(), metrics, Dialable::new(own, None), Protocol::Http1, None), registry)
    }

    fn take(intake: &Intake, body: &str, age_secs: i64) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let timestamp =
            (i128::try_from(now).unwrap() - i128::from(age_secs) * 1_000_000_000).try_into().unwrap();
        intake.take(&Message { body: body.as_bytes(), timestamp, nsqd: "test:4150" });
    }

    fn counted(intake: &Intake, result: &str) -> bool {
        let text = intake.metrics.render(&crate::metrics::Scrape { dataservers: &[], frozen: false });
        text.contains(&format!("gateway_heartbeats_total{{result=\"{result}\"}} 1"))
    }

    #[test]
    fn each_end_of_a_message_is_counted_by_its_own_name() {
        let (intake, registry) = intake();
        for (body, age_secs, result) in [
            ("10.0.0.1:1", 0, "joined"),
            ("10.0.0.1:1", 1, "refreshed"),
            ("10.0.0.2:1", 11, "stale"),
            ("10.0.0.3:1", -3600, "joined"),
            ("10.0.0.4:1", 0, "full"),
            ("127.0.0.1:9000", 0, "refused_own_listener"),
            ("", 0, "refused_empty"),
            (r#"{"addr":"10.0.0.1:1","proto":"h3"}"#, 0, "refused_proto"),
            ("169.254.169.254:80", 0, "refused_addr_forbidden"),
        ] {
            take(&intake, body, age_secs);
            assert!(counted(&intake, result) || result == "joined", "{body}: {result}");
        }
        let live: Vec<_> = registry.list(Instant::now()).iter().map(|entry| entry.addr.to_string()).collect();
        assert_eq!(live, ["10.0.0.1:1", "10.0.0.3:1"]);
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        assert_eq!(excerpt(b"a\r\n\x1b[2J"), "a\\r\\n\\x1b[2J");
        assert!(excerpt(&[0; 4096]).len() < 300);
    }
}
