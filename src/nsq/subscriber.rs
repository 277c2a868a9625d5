//! Which nsqds are read: those that are configured, and those that the nsqlookupds name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::task::JoinHandle;
use tokio_nsq::{NSQChannel, NSQTopic};
use tokio_util::sync::CancellationToken;

use super::discovery::Lookupds;
use super::intake::Intake;
use super::link::{self, Settings};
use crate::config::Config;
use crate::metrics::{Metrics, NsqdLink};

/// Reads the heartbeats of every nsqd there is.
pub struct Subscriber {
    fixed: BTreeSet<String>,
    lookupds: Lookupds,
    lookup_interval: Duration,
    topic: String,
    settings: Settings,
    intake: Arc<Intake>,
    metrics: Metrics,
}

struct Link {
    metric: Arc<NsqdLink>,
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
    /// Reads from the nsqds of `config` and from `extra`, the one inside the gateway.
    ///
    /// # Errors
    /// When NSQ does not take the topic's or the channel's name.
    pub fn new(
        config: &Config,
        extra: Option<String>,
        intake: Intake,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let (topic, nsq) = (&config.common.server_topic, &config.nsq);
        let channel = nsq.channel.clone().unwrap_or_else(own_channel);
        let settings = Settings {
            topic: NSQTopic::new(topic).ok_or_else(|| anyhow::anyhow!("{topic:?} is not a topic name"))?,
            channel: NSQChannel::new(&channel)
                .ok_or_else(|| anyhow::anyhow!("{channel:?} is not a channel name"))?,
            connect_timeout: nsq.connect_timeout,
            reconnect_max: nsq.reconnect_max,
            silence_timeout: nsq.silence_timeout,
        };
        tracing::info!(topic, channel, "heartbeats are read from this topic and channel");
        Ok(Self {
            fixed: config.common.nsqd.iter().map(ToString::to_string).chain(extra).collect(),
            lookupds: Lookupds::new(&config.common.nsqlookupd, nsq.connect_timeout),
            lookup_interval: nsq.lookup_interval,
            topic: topic.clone(),
            settings,
            intake: Arc::new(intake),
            metrics,
        })
    }

    /// Reads until `stop`; then every link is down.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut links: HashMap<String, Link> = HashMap::new();
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
    async fn follow(&mut self, links: &mut HashMap<String, Link>) {
        // What is configured needs nobody's answer.
        for nsqd in &self.fixed {
            self.link(links, nsqd);
        }
        let found = self.lookupds.nsqds_of(&self.topic).await;
        for nsqd in &found {
            self.link(links, nsqd);
        }
        // A link that works is kept though nobody names it: an nsqlookupd that was just started knows nobody.
        let has_left = |nsqd: &String, link: &mut Link| {
            !self.fixed.contains(nsqd) && !found.contains(nsqd) && !link.metric.is_connected()
        };
        for (nsqd, link) in links.extract_if(has_left) {
            tracing::info!(nsqd, "this nsqd has left");
            link.stop().await;
        }
    }

    fn link(&self, links: &mut HashMap<String, Link>, nsqd: &str) {
        if links.contains_key(nsqd) {
            return;
        }
        let metric = Arc::new(self.metrics.nsqd(nsqd));
        let stop = CancellationToken::new();
        let (settings, intake) = (self.settings.clone(), self.intake.clone());
        let task = tokio::spawn(link::run(nsqd.to_owned(), settings, intake, metric.clone(), stop.clone()));
        links.insert(nsqd.to_owned(), Link { metric, stop, task });
    }
}

/// On a channel of its own a gateway sees every heartbeat; an ephemeral one leaves nothing behind.
fn own_channel() -> String {
    format!("gateway-{}-{:08x}#ephemeral", std::process::id(), rand::random::<u32>())
}
