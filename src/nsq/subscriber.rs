//! Which nsqds are read: those that are configured, and those that the nsqlookupds name.

//!
//! With another config the links are made anew as far as it concerns them, and the old ones go when the new ones work: there
//! is no moment at which nobody is heard, and nothing that was said in between is lost.

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_nsq::{NSQChannel, NSQTopic};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::WallClock;
use super::discovery::{Lookupds, Sides, usual_http};
use super::intake::Intake;
use super::link::{self, Settings};
use super::nsqd::{Nsqd, Polls};
use super::stats::Question;
use crate::config::{Config, Endpoint, Running};
use crate::metrics::Metrics;

/// How often it is looked whether the old links can go.
const LOOK: Duration = Duration::from_millis(20);

/// Reads the heartbeats of every nsqd there is.
pub struct Subscriber {
    config: Running,
    /// The NSQ inside the gateway.
    embedded: Option<[Endpoint; 2]>,
    /// How this gateway's consumers call themselves.
    client_id: String,
    wall: WallClock,
    intake: Arc<Intake>,
    metrics: Metrics,
    reading: Reading,
    links: HashMap<Endpoint, Link>,
    /// Links that an earlier config wanted, and that are kept until those of the present one work.
    old: Vec<Link>,
}

/// What is read, and how, by one config.
struct Reading {
    /// The part of the config that it follows from.
    terms: Terms,
    since: Instant,
    fixed: Sides,
    lookupds: Lookupds,
    polls: Arc<Polls>,
    settings: Arc<Settings>,
}

#[derive(PartialEq)]
struct Terms {
    nsqds: Vec<Endpoint>,
    lookupds: Vec<Endpoint>,
    of_links: LinkTerms,
}

/// What a link goes by from its beginning to its end.
#[derive(PartialEq)]
struct LinkTerms {
    topic: String,
    channel: Option<String>,
    lookup_interval: Duration,
    connect_timeout: Duration,
    reconnect_max: Duration,
    silence_timeout: Duration,
}

impl Terms {
    fn of(Config { common, nsq, .. }: &Config) -> Self {
        Self {
            nsqds: common.nsqd.clone(),
            lookupds: common.nsqlookupd.clone(),
            of_links: LinkTerms {
                topic: common.server_topic.clone(),
                channel: nsq.channel.clone(),
                lookup_interval: nsq.lookup_interval,
                connect_timeout: nsq.connect_timeout,
                reconnect_max: nsq.reconnect_max,
                silence_timeout: nsq.silence_timeout,
            },
        }
    }
}

impl Reading {
    fn new(terms: Terms, client_id: &str, embedded: Option<&[Endpoint; 2]>) -> anyhow::Result<Self> {
        let LinkTerms { topic, channel, lookup_interval, connect_timeout, reconnect_max, silence_timeout } =
            &terms.of_links;
        // On a channel of its own a gateway sees every heartbeat; an ephemeral one leaves nothing behind.
        let channel = channel.clone().unwrap_or_else(|| format!("{client_id}#ephemeral"));
        let settings = Settings {
            topic: NSQTopic::new(topic).ok_or_else(|| anyhow::anyhow!("{topic:?} is not a topic name"))?,
            channel: NSQChannel::new(&channel)
                .ok_or_else(|| anyhow::anyhow!("{channel:?} is not a channel name"))?,
            connect_timeout: *connect_timeout,
            reconnect_max: *reconnect_max,
            silence_timeout: *silence_timeout,
            client_id: client_id.to_owned(),
        };
        tracing::info!(topic, channel, "heartbeats are read from this topic and channel");
        let (topic, client_id) = (topic.clone(), client_id.to_owned());
        let question = Question { topic, channel, client_id, within: *connect_timeout };
        let polls = Polls { question, interval: *lookup_interval };
        let configured = terms.nsqds.iter().map(|tcp| (tcp.clone(), usual_http(tcp)));
        Ok(Self {
            since: Instant::now(),
            fixed: configured.chain(embedded.cloned().map(Into::into)).collect(),
            lookupds: Lookupds::new(&terms.lookupds, *connect_timeout),
            polls: Arc::new(polls),
            settings: Arc::new(settings),
            terms,
        })
    }

    /// For so long the old links are waited with at most, if it is known which the new ones are: by then each that can be
    /// had is there.
    fn overlap(&self) -> Duration {
        self.settings.connect_timeout * 3
    }
}

struct Link {
    nsqd: Arc<Nsqd>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Link {
    async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a link to an nsqd panicked");
        }
    }
}

impl Subscriber {
    /// Reads from the nsqds of the config and from `embedded`, the TCP and HTTP sides of the one inside the gateway.
    ///
    /// # Errors
    /// When NSQ does not take the topic's or the channel's name.
    pub fn new(
        config: Running,
        embedded: Option<[SocketAddr; 2]>,
        intake: Arc<Intake>,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let client_id = format!("gateway-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let embedded = embedded.map(|sides| sides.map(Endpoint::from));
        let reading = Reading::new(Terms::of(&config.now()), &client_id, embedded.as_ref())?;
        let (wall, links, old) = (WallClock::start(), HashMap::new(), Vec::new());
        Ok(Self { config, embedded, client_id, wall, intake, metrics, reading, links, old })
    }

    /// Reads until `stop`; then every link is down.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut config = self.config.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = config.changed() => self.reconfigure(&next),
                () = self.follow_for_a_while() => {}
            }
        }
        for link in self.links.into_values().chain(self.old) {
            link.stop().await;
        }
    }

    fn reconfigure(&mut self, config: &Config) {
        let terms = Terms::of(config);
        let before = &self.reading;
        if terms == before.terms {
            return;
        }
        let (same_links, same_topic) =
            (terms.of_links == before.terms.of_links, terms.of_links.topic == before.terms.of_links.topic);
        let mut reading = match Reading::new(terms, &self.client_id, self.embedded.as_ref()) {
            Ok(reading) => reading,
            Err(error) => return tracing::error!(%error, "heartbeats are read as before"),
        };
        if same_topic {
            reading.lookupds.go_on_from(&before.lookupds);
        }
        let named = reading.lookupds.known();
        let goes =
            |tcp: &Endpoint| !same_links || !(reading.fixed.contains_key(tcp) || named.contains_key(tcp));
        self.old.extend(self.links.extract_if(|tcp, _| goes(tcp)).map(|(_, link)| link));
        self.reading = reading;
    }

    /// Makes the links those that are wanted now, and looks after them until it is time to ask again.
    async fn follow_for_a_while(&mut self) {
        self.follow().await;
        let pause = self.reading.polls.interval.mul_f64(rand::rng().random_range(0.9..1.1));
        let next = Instant::now() + pause;
        while tokio::time::timeout_at(next, self.old_can_go()).await.is_ok() {
            for link in self.old.drain(..) {
                tracing::info!(nsqd = link.nsqd.name, "this link to an nsqd has been replaced");
                // Told to stop: it needs nobody who waits for that.
                drop(link);
            }
        }
    }

    async fn follow(&mut self) {
        // What is configured needs nobody's answer.
        for (tcp, http) in self.reading.fixed.clone() {
            self.link(&tcp, &http);
        }
        let topic = self.reading.terms.of_links.topic.clone();
        let found = self.reading.lookupds.nsqds_of(&topic).await;
        for (tcp, http) in &found {
            self.link(tcp, http);
            if let Some(link) = self.links.get(tcp) {
                link.nsqd.set_http(http);
            }
        }
        // A link that works is kept though nobody names it: an nsqlookupd that was just started knows nobody.
        let has_left = |tcp: &Endpoint, link: &mut Link| {
            !self.reading.fixed.contains_key(tcp)
                && !found.contains_key(tcp)
                && !link.nsqd.link.is_connected()
        };
        for (nsqd, link) in self.links.extract_if(has_left) {
            tracing::info!(%nsqd, "this nsqd has left");
            link.stop().await;
        }
    }

    fn link(&mut self, tcp: &Endpoint, http: &Endpoint) {
        if self.links.contains_key(tcp) {
            return;
        }
        let name = tcp.to_string();
        let link = self.metrics.nsqd(&name);
        let nsqd = Arc::new(Nsqd::new(name, http.clone(), self.wall, self.reading.polls.clone(), link));
        let stop = CancellationToken::new();
        let (settings, intake) = (self.reading.settings.clone(), self.intake.clone());
        let task = tokio::spawn(link::run(nsqd.clone(), settings, intake, stop.clone()));
        self.links.insert(tcp.clone(), Link { nsqd, stop: stop.drop_guard(), task });
    }

    /// Resolves when those that take their place work, or cannot be waited for any longer; never if there are none.
    async fn old_can_go(&self) {
        if self.old.is_empty() {
            return pending().await;
        }
        loop {
            // Which nsqds are wanted is known when every nsqlookupd has said so.
            if self.reading.lookupds.have_all_answered() {
                let works = |link: &Link| link.nsqd.link.is_connected();
                let all_work = !self.links.is_empty() && self.links.values().all(works);
                if all_work || self.reading.since.elapsed() >= self.reading.overlap() {
                    return;
                }
            }
            sleep(LOOK).await;
        }
    }
}
