//! Heartbeats out: to a random nsqd, to another one if that fails, and only done when nsqd has acknowledged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_nsq::{NSQConfigShared, NSQEvent, NSQProducer, NSQProducerConfig, NSQTopic};

use super::discovery::Lookupds;
use crate::config::Config;

/// Where the nsqds to publish to are known from.
pub struct Nsqds {
    fixed: Vec<String>,
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
        let mut fixed: Vec<_> = config.common.nsqd.iter().map(ToString::to_string).collect();
        if fixed.is_empty() && config.common.nsqlookupd.is_empty() && config.runs_embedded_nsq() {
            fixed.push(config.nsq.embedded_listen.tcp.to_string());
        }
        Self { fixed, lookupds: Lookupds::new(&config.common.nsqlookupd, config.nsq.connect_timeout) }
    }

    async fn shuffled(&mut self) -> Vec<String> {
        let mut nsqds = if self.fixed.is_empty() {
            self.lookupds.nsqds().await.into_iter().collect()
        } else {
            self.fixed.clone()
        };
        nsqds.shuffle(&mut rand::rng());
        nsqds
    }
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
        let nsqds = self.nsqds.shuffled().await;
        self.kept.retain(|nsqd, _| nsqds.contains(nsqd));
        let mut failures = Vec::new();
        for nsqd in nsqds {
            // A kept connection may have ended while nobody looked; that says nothing about the nsqd.
            let tries = if self.kept.contains_key(&nsqd) { 2 } else { 1 };
            for _ in 0..tries {
                match self.publish_to(&nsqd, body).await {
                    Ok(()) => return Ok(nsqd),
                    Err(why) => failures.push(format!("{nsqd}: {why}")),
                }
            }
        }
        if failures.is_empty() {
            Err(PublishError::NoNsqd)
        } else {
            Err(PublishError::AllFailed(failures.join("; ")))
        }
    }

    /// On failure the connection is dropped: what may still be under way on it must not be mistaken for the
    /// acknowledgement of the next message.
    async fn publish_to(&mut self, nsqd: &str, body: &[u8]) -> Result<(), &'static str> {
        let deadline = Instant::now() + self.timeout;
        let mut producer = match self.kept.remove(nsqd) {
            Some(producer) => producer,
            None => connect(nsqd, deadline).await?,
        };
        if producer.publish(&self.topic, body.to_vec()).await.is_err() {
            return Err("the connection was lost");
        }
        await_event(&mut producer, deadline, |event| matches!(event, NSQEvent::Ok()))
            .await
            .map_err(|()| "not acknowledged in time")?;
        self.kept.insert(nsqd.to_owned(), producer);
        Ok(())
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
