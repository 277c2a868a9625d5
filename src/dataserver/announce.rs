//! Announcing: a heartbeat at once, then one every `common.heart_beat_time`.

use std::time::Duration;

use http::Uri;
use rand::Rng;
use tokio::time::{Instant, sleep_until};

use crate::addr::Addr;
use crate::config::Config;
use crate::fetch;
use crate::heartbeat::Heartbeat;
use crate::nsq::{Nsqds, Publisher};
use crate::protocol::Protocol;

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A heartbeat that no nsqd took is not made up for by the next one alone: the gateway counts the time.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Announces one address.
pub struct Announcer {
    heartbeat: Heartbeat,
    probe: Option<Probe>,
    publisher: Publisher,
    interval: Duration,
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
    /// Announces `addr` to the nsqds of `config`, with what it speaks if that is to be said, and with a probe only
    /// while that succeeds.
    ///
    /// # Errors
    /// When NSQ does not take the topic's name.
    pub fn new(
        addr: Addr,
        protocol: Option<Protocol>,
        probe: Option<Probe>,
        config: &Config,
    ) -> anyhow::Result<Self> {
        let publisher = Publisher::new(config, Nsqds::of(config))?;
        let interval = config.common.heart_beat_time;
        Ok(Self { heartbeat: Heartbeat { protocol, ..Heartbeat::plain(addr) }, probe, publisher, interval })
    }

    /// Announces for as long as it is polled.
    pub async fn run(mut self) {
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

    async fn beat(&mut self, before: &State) -> State {
        let dataserver = &self.heartbeat.addr;
        if let Some(probe) = &self.probe
            && let Err(why) = probe.check().await
        {
            if *before != State::ProbeFailed {
                tracing::warn!(%dataserver, "not announced, its probe fails: {why}");
            }
            return State::ProbeFailed;
        }
        match self.publisher.publish(&self.heartbeat.encode()).await {
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
}

impl Probe {
    async fn check(&self) -> Result<(), String> {
        match fetch::get(&self.endpoint, &self.path, PROBE_TIMEOUT).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, _)) => Err(format!("it answers {status}")),
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
