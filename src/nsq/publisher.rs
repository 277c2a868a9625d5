//! Heartbeats out: to a random nsqd, to another one if that fails, and only done when nsqd has acknowledged. What
//! every gateway must hear at once goes to all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_nsq::{NSQConfigShared, NSQEvent, NSQProducer, NSQProducerConfig, NSQTopic};

use super::discovery::{Lookupds, Sides};
use crate::config::Config;

/// Where the nsqds to publish to are known from.
pub struct Nsqds {
    fixed: BTreeSet<String>,
    lookupds: Lookupds,
}

/// Publishes to one topic, over connections that are kept.
pub struct Publisher {
    topic: Arc<NSQTopic>,
    nsqds: Nsqds,
    timeout: Duration,
    kept: HashMap<String, NSQProducer>,
}

/// No nsqd took the message.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// None is configured, and no nsqlookupd names one.
    #[error("there is no nsqd to publish to")]
    NoNsqd,
    /// Each of them failed, and how.
    #[error("no nsqd took it: {0}")]
    AllFailed(String),
}

impl Nsqds {
    /// The nsqds of a config: those that it lists, or those that its nsqlookupds know, or else the one that the
    /// gateway of this config runs itself.
    pub fn of(config: &Config) -> Self {
        let mut fixed: BTreeSet<_> = config.common.nsqd.iter().map(ToString::to_string).collect();
        if fixed.is_empty() && config.common.nsqlookupd.is_empty() && config.runs_embedded_nsq() {
            fixed.insert(config.nsq.embedded_listen.tcp.to_string());
        }
        Self { fixed, lookupds: Lookupds::new(&config.common.nsqlookupd, config.nsq.connect_timeout) }
    }

    async fn now(&mut self) -> BTreeSet<String> {
        if self.fixed.is_empty() { names(&self.lookupds.nsqds().await) } else { self.fixed.clone() }
    }

    /// Those that were there at the last heartbeat: who is leaving does not wait for an nsqlookupd.
    async fn known(&mut self) -> BTreeSet<String> {
        let known = names(&self.lookupds.known());
        if known.is_empty() { self.now().await } else { known }
    }
}

fn names(nsqds: &Sides) -> BTreeSet<String> {
    nsqds.keys().map(ToString::to_string).collect()
}

impl Publisher {
    /// Publishes to the topic of a config.
    ///
    /// # Errors
    /// When NSQ does not take the topic's name.
    pub fn new(config: &Config, nsqds: Nsqds) -> anyhow::Result<Self> {
        let topic = &config.common.server_topic;
        let topic = NSQTopic::new(topic).ok_or_else(|| anyhow::anyhow!("{topic:?} is not a topic name"))?;
        Ok(Self { topic, nsqds, timeout: config.nsq.connect_timeout, kept: HashMap::new() })
    }

    /// Publishes a message and returns which nsqd took it.
    ///
    /// # Errors
    /// When no nsqd acknowledged it; each has `nsq.connect_timeout` for that.
    pub async fn publish(&mut self, body: &[u8]) -> Result<String, PublishError> {
        let nsqds = self.nsqds.now().await;
        self.kept.retain(|nsqd, _| nsqds.contains(nsqd));
        let mut nsqds: Vec<_> = nsqds.into_iter().collect();
        nsqds.shuffle(&mut rand::rng());
        let mut failures = Vec::new();
        for nsqd in nsqds {
            match self.delivery(nsqd, body).run().await {
                Ok((nsqd, producer)) => {
                    self.kept.insert(nsqd.clone(), producer);
                    return Ok(nsqd);
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(PublishError::from(failures))
    }

    /// Publishes a message to every nsqd at the same time, and returns which took it.
    ///
    /// # Errors
    /// When none acknowledged it within `nsq.connect_timeout`.
    pub async fn publish_to_all(&mut self, body: &[u8]) -> Result<Vec<String>, PublishError> {
        let mut deliveries = JoinSet::new();
        for nsqd in self.nsqds.known().await {
            deliveries.spawn(self.delivery(nsqd, body).run());
        }
        let (mut taken, mut failures) = (Vec::new(), Vec::new());
        while let Some(ended) = deliveries.join_next().await {
            match ended {
                Ok(Ok((nsqd, producer))) => {
                    self.kept.insert(nsqd.clone(), producer);
                    taken.push(nsqd);
                }
                Ok(Err(failure)) => failures.push(failure),
                Err(panic) => failures.push(panic.to_string()),
            }
        }
        if taken.is_empty() { Err(PublishError::from(failures)) } else { Ok(taken) }
    }

    /// A connection that fails is not kept: what may still be under way on it must not be mistaken for the
    /// acknowledgement of the next message.
    fn delivery(&mut self, nsqd: String, body: &[u8]) -> Delivery {
        let (topic, body, kept) = (self.topic.clone(), body.to_vec(), self.kept.remove(&nsqd));
        Delivery { nsqd, topic, body, deadline: Instant::now() + self.timeout, kept }
    }
}

impl From<Vec<String>> for PublishError {
    fn from(failures: Vec<String>) -> Self {
        if failures.is_empty() { Self::NoNsqd } else { Self::AllFailed(failures.join("; ")) }
    }
}

/// One message for one nsqd.
struct Delivery {
    nsqd: String,
    topic: Arc<NSQTopic>,
    body: Vec<u8>,
    deadline: Instant,
    kept: Option<NSQProducer>,
}

impl Delivery {
    /// Returns the nsqd and the connection that it acknowledged on.
    async fn run(mut self) -> Result<(String, NSQProducer), String> {
        // A kept connection may have ended while nobody looked; that says nothing about the nsqd.
        if let Some(kept) = self.kept.take()
            && let Ok(producer) = self.send(kept).await
        {
            return Ok((self.nsqd, producer));
        }
        match self.connect_and_send().await {
            Ok(producer) => Ok((self.nsqd, producer)),
            Err(why) => Err(format!("{}: {why}", self.nsqd)),
        }
    }

    async fn connect_and_send(&self) -> Result<NSQProducer, &'static str> {
        let producer = connect(&self.nsqd, self.deadline).await?;
        self.send(producer).await
    }

    async fn send(&self, mut producer: NSQProducer) -> Result<NSQProducer, &'static str> {
        if producer.publish(&self.topic, self.body.clone()).await.is_err() {
            return Err("the connection was lost");
        }
        await_event(&mut producer, self.deadline, |event| matches!(event, NSQEvent::Ok()))
            .await
            .map_err(|()| "not acknowledged in time")?;
        Ok(producer)
    }
}

async fn connect(nsqd: &str, deadline: Instant) -> Result<NSQProducer, &'static str> {
    // tokio-nsq tries a refused connection again and again and says nothing; the next nsqd should have its turn.
    let reachable =
        timeout_at(deadline, TcpStream::connect(nsqd)).await.map_err(|_| "no connection in time")?;
    drop(reachable.map_err(|_| "cannot connect")?);
    let shared = NSQConfigShared::new()
        .set_flush_interval(Duration::from_millis(10))
        .set_user_agent(concat!("nsq-gateway-dataserver/", env!("CARGO_PKG_VERSION")));
    let mut producer = NSQProducerConfig::new(nsqd).set_shared(shared).build();
    let healthy = await_event(&mut producer, deadline, |event| matches!(event, NSQEvent::Healthy()));
    healthy.await.map_err(|()| "no connection in time")?;
    Ok(producer)
}

async fn await_event(
    producer: &mut NSQProducer,
    deadline: Instant,
    wanted: impl Fn(&NSQEvent) -> bool,
) -> Result<(), ()> {
    while let Ok(Some(event)) = timeout_at(deadline, producer.consume()).await {
        if wanted(&event) {
            return Ok(());
        }
    }
    Err(())
}
