//! Announcing: a heartbeat at once, then one every `common.heart_beat_time`, and a goodbye at the end.

use std::time::{Duration, SystemTime};

use http::Uri;
use rand::Rng;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::addr::Addr;
use crate::config::Config;
use crate::fetch;
use crate::heartbeat::Heartbeat;
use crate::key::Key;
use crate::nsq::{Nsqds, Publisher};
use crate::presence::{Incarnation, Phase, ProcessId};
use crate::protocol::Protocol;

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A heartbeat that no nsqd took is not made up for by the next one alone: the gateway counts the time.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What is announced.
pub struct Announcement {
    /// Where its requests go.
    pub addr: Addr,
    /// What it speaks; `None` leaves that to the gateway.
    pub protocol: Option<Protocol>,
    /// Announce it only while this succeeds.
    pub probe: Option<Probe>,
    /// Send `host:port` and nothing else, for gateways that read nothing else. There is no goodbye in that form.
    pub plain: bool,
}

/// Announces one address.
pub struct Announcer {
    /// What was said last.
    heartbeat: Heartbeat,
    probe: Option<Probe>,
    publisher: Publisher,
    interval: Duration,
    /// What heartbeats are signed with.
    key: Option<Key>,
    /// Whether a gateway may have heard of it.
    announced: bool,
}

/// A URL that must answer 2xx for a service to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    endpoint: String,
    path: String,
}

impl std::str::FromStr for Probe {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
        if uri.scheme_str() != Some("http") {
            return Err("is not an http:// URL");
        }
        let host = uri.host().ok_or("has no host")?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { endpoint: format!("{host}:{}", uri.port_u16().unwrap_or(80)), path: path.to_owned() })
    }
}

/// What became of the last heartbeat; only a change of it is worth a line in the log.
#[derive(PartialEq)]
enum State {
    Starting,
    Announced,
    ProbeFailed,
    PublishFailed,
}

impl Announcer {
    /// Announces to the nsqds of `config`, as a process that nobody has heard of before.
    ///
    /// # Errors
    /// When NSQ does not take the topic's name, or heartbeats are to be signed and cannot be.
    pub fn new(announcement: Announcement, config: &Config) -> anyhow::Result<Self> {
        let Announcement { addr, protocol, probe, plain } = announcement;
        let key = config.nsq.heartbeat_keys()?.into_iter().next();
        anyhow::ensure!(
            !(plain && key.is_some()),
            "the plain form cannot be signed, and nsq.heartbeat_key_file asks for that"
        );
        let incarnation = (!plain).then(|| Incarnation { id: ProcessId::random(), seq: 0 });
        Ok(Self {
            heartbeat: Heartbeat { protocol, incarnation, ..Heartbeat::plain(addr) },
            probe,
            publisher: Publisher::new(config, Nsqds::of(config))?,
            interval: config.common.heart_beat_time,
            key,
            announced: false,
        })
    }

    /// Announces for as long as it is polled.
    pub async fn run(&mut self) {
        let mut state = State::Starting;
        loop {
            let begun = Instant::now();
            let now = self.beat(&state).await;
            state = now;
            // A little jitter: dataservers that were started together should not beat together for ever.
            let pause =
                if state == State::PublishFailed { self.interval.min(TRY_AGAIN) } else { self.interval };
            let jitter = rand::rng().random_range(0.95..1.0);
            sleep_until(begun + pause.mul_f64(jitter)).await;
        }
    }

    /// Says that it drains, and says so again in every interval, for as long as it is polled.
    pub async fn drain(&mut self) {
        loop {
            self.tell_all(Phase::Draining).await;
            sleep(self.interval).await;
        }
    }

    /// Says that it serves no more. Takes `nsq.connect_timeout` at most.
    pub async fn down(&mut self) {
        self.tell_all(Phase::Down).await;
    }

    /// The whole goodbye of a service that goes on serving by itself for `leave`.
    pub async fn goodbye(&mut self, leave: Duration) {
        if self.says_goodbye() {
            let _ = timeout(leave, self.drain()).await;
            self.down().await;
        }
    }

    async fn beat(&mut self, before: &State) -> State {
        if let Some(probe) = &self.probe
            && let Err(why) = probe.check().await
        {
            if *before != State::ProbeFailed {
                let dataserver = &self.heartbeat.addr;
                tracing::warn!(%dataserver, "not announced, its probe fails: {why}");
                // Not down: when the probes of all fail at once, one that is doubted is better than none.
                self.tell_all(Phase::Draining).await;
            }
            return State::ProbeFailed;
        }
        self.announced = true;
        let heartbeat = self.next(Phase::Up);
        let published = self.publisher.publish(&heartbeat).await;
        let dataserver = &self.heartbeat.addr;
        match published {
            Ok(nsqd) => {
                if *before == State::Announced {
                    tracing::trace!(%dataserver, nsqd, "heartbeat sent");
                } else {
                    let interval_seconds = self.interval.as_secs_f64();
                    tracing::info!(%dataserver, nsqd, interval_seconds, "announced");
                }
                State::Announced
            }
            Err(error) => {
                if *before != State::PublishFailed {
                    tracing::warn!(%dataserver, %error, "heartbeats cannot be sent");
                }
                State::PublishFailed
            }
        }
    }

    /// Tells every nsqd, not one of them: a gateway may be cut off from any.
    async fn tell_all(&mut self, phase: Phase) {
        if !self.says_goodbye() {
            return;
        }
        let heartbeat = self.next(phase);
        let told = self.publisher.publish_to_all(&heartbeat).await;
        let (dataserver, state) = (&self.heartbeat.addr, phase.as_str());
        match told {
            Ok(nsqds) => tracing::info!(%dataserver, state, ?nsqds, "gateways are told its state"),
            Err(error) => tracing::warn!(%dataserver, state, %error, "gateways cannot be told its state"),
        }
    }

    /// Nobody waits for the goodbye of who was never heard of.
    fn says_goodbye(&self) -> bool {
        self.announced && self.heartbeat.incarnation.is_some()
    }

    /// The next heartbeat of this process.
    fn next(&mut self, phase: Phase) -> Vec<u8> {
        self.heartbeat.phase = phase;
        if let Some(incarnation) = &mut self.heartbeat.incarnation {
            incarnation.seq += 1;
        }
        match &self.key {
            Some(key) => self.heartbeat.encode_signed(key, millis_since_1970()),
            None => self.heartbeat.encode(),
        }
    }
}

/// A clock that is wrong is for the gateway to find out.
fn millis_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Probe {
    async fn check(&self) -> Result<(), String> {
        match fetch::get(&self.endpoint, &self.path, PROBE_TIMEOUT).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.status())),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_an_http_url() {
        let probe: Probe = "http://127.0.0.1:2379/health?x=1".parse().unwrap();
        assert_eq!((probe.endpoint.as_str(), probe.path.as_str()), ("127.0.0.1:2379", "/health?x=1"));
        let probe: Probe = "http://db".parse().unwrap();
        assert_eq!((probe.endpoint.as_str(), probe.path.as_str()), ("db:80", "/"));
        for url in ["", "db:80", "https://db/", "/health"] {
            assert!(url.parse::<Probe>().is_err(), "{url}");
        }
    }
}
