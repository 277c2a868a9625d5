//! Which nsqds are read: those that are configured, and those that the nsqlookupds name.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::task::JoinHandle;
use tokio_nsq::{NSQChannel, NSQTopic};
use tokio_util::sync::CancellationToken;

use super::clock::WallClock;
use super::discovery::{Lookupds, Sides, usual_http};
use super::intake::Intake;
use super::link::{self, Settings};
use super::nsqd::{Nsqd, Polls};
use super::stats::Question;
use crate::config::{Config, Endpoint};
use crate::metrics::Metrics;

/// Reads the heartbeats of every nsqd there is.
pub struct Subscriber {
    fixed: Sides,
    lookupds: Lookupds,
    lookup_interval: Duration,
    topic: String,
    wall: WallClock,
    polls: Arc<Polls>,
    settings: Arc<Settings>,
    intake: Arc<Intake>,
    metrics: Metrics,
}

struct Link {
    nsqd: Arc<Nsqd>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Link {
    async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a link to an nsqd panicked");
        }
    }
}

impl Subscriber {
    /// Reads from the nsqds of `config` and from `embedded`, the TCP and HTTP sides of the one inside the gateway.
    ///
    /// # Errors
    /// When NSQ does not take the topic's or the channel's name.
    pub fn new(
        config: &Config,
        embedded: Option<[SocketAddr; 2]>,
        intake: Intake,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let (topic, nsq) = (&config.common.server_topic, &config.nsq);
        let client_id = format!("gateway-{}-{:08x}", std::process::id(), rand::random::<u32>());
        // On a channel of its own a gateway sees every heartbeat; an ephemeral one leaves nothing behind.
        let channel = nsq.channel.clone().unwrap_or_else(|| format!("{client_id}#ephemeral"));
        let settings = Settings {
            topic: NSQTopic::new(topic).ok_or_else(|| anyhow::anyhow!("{topic:?} is not a topic name"))?,
            channel: NSQChannel::new(&channel)
                .ok_or_else(|| anyhow::anyhow!("{channel:?} is not a channel name"))?,
            connect_timeout: nsq.connect_timeout,
            reconnect_max: nsq.reconnect_max,
            silence_timeout: nsq.silence_timeout,
            client_id: client_id.clone(),
        };
        tracing::info!(topic, channel, "heartbeats are read from this topic and channel");
        let question = Question { topic: topic.clone(), channel, client_id, within: nsq.connect_timeout };
        let configured = config.common.nsqd.iter().map(|tcp| (tcp.clone(), usual_http(tcp)));
        let embedded = embedded.map(|sides| sides.map(Endpoint::from).into());
        Ok(Self {
            fixed: configured.chain(embedded).collect(),
            lookupds: Lookupds::new(&config.common.nsqlookupd, nsq.connect_timeout),
            lookup_interval: nsq.lookup_interval,
            topic: topic.clone(),
            wall: WallClock::start(),
            polls: Arc::new(Polls { question, interval: nsq.lookup_interval }),
            settings: Arc::new(settings),
            intake: Arc::new(intake),
            metrics,
        })
    }

    /// Reads until `stop`; then every link is down.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut links: HashMap<Endpoint, Link> = HashMap::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.follow(&mut links) => {}
            }
            let pause = self.lookup_interval.mul_f64(rand::rng().random_range(0.9..1.1));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        for link in links.into_values() {
            link.stop().await;
        }
    }

    /// Makes the links those that are wanted now.
    async fn follow(&mut self, links: &mut HashMap<Endpoint, Link>) {
        // What is configured needs nobody's answer.
        for (tcp, http) in &self.fixed {
            self.link(links, tcp, http);
        }
        let found = self.lookupds.nsqds_of(&self.topic).await;
        for (tcp, http) in &found {
            self.link(links, tcp, http);
            if let Some(link) = links.get(tcp) {
                link.nsqd.set_http(http);
            }
        }
        // A link that works is kept though nobody names it: an nsqlookupd that was just started knows nobody.
        let has_left = |tcp: &Endpoint, link: &mut Link| {
            !self.fixed.contains_key(tcp) && !found.contains_key(tcp) && !link.nsqd.link.is_connected()
        };
        for (nsqd, link) in links.extract_if(has_left) {
            tracing::info!(%nsqd, "this nsqd has left");
            link.stop().await;
        }
    }

    fn link(&self, links: &mut HashMap<Endpoint, Link>, tcp: &Endpoint, http: &Endpoint) {
        if links.contains_key(tcp) {
            return;
        }
        let name = tcp.to_string();
        let link = self.metrics.nsqd(&name);
        let nsqd = Arc::new(Nsqd::new(name, http.clone(), self.wall, self.polls.clone(), link));
        let stop = CancellationToken::new();
        let (settings, intake) = (self.settings.clone(), self.intake.clone());
        let task = tokio::spawn(link::run(nsqd.clone(), settings, intake, stop.clone()));
        links.insert(tcp.clone(), Link { nsqd, stop, task });
    }
}
