//! The link to one nsqd: reads its heartbeats, and goes on trying for as long as the nsqd is wanted.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_nsq::{
    NSQChannel, NSQConfigShared, NSQConsumer, NSQConsumerConfig, NSQConsumerConfigSources, NSQEvent, NSQTopic,
};
use tokio_util::sync::CancellationToken;

use super::guard::{self, Ended};
use super::intake::{Intake, Message};
use super::nsqd::Nsqd;

/// Messages that nsqd may send ahead of their acknowledgement; nsqd's own default allows 2500.
const MAX_IN_FLIGHT: u32 = 2_000;

/// How long an acknowledgement waits for others to go with it.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);

/// First wait after a link was lost; it doubles from there.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// What all links of a gateway have in common.
pub(super) struct Settings {
    pub(super) topic: Arc<NSQTopic>,
    pub(super) channel: Arc<NSQChannel>,
    pub(super) connect_timeout: Duration,
    pub(super) reconnect_max: Duration,
    pub(super) silence_timeout: Duration,
    /// How this gateway's consumers call themselves.
    pub(super) client_id: String,
}

/// Why a link is down.
#[derive(Debug, thiserror::Error)]
enum Down {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("no connection within {}", humantime::format_duration(*.0))]
    ConnectTimeout(Duration),
    #[error("the loopback relay cannot be set up: {0}")]
    Relay(std::io::Error),
    #[error("no subscription within {}", humantime::format_duration(*.0))]
    NotSubscribed(Duration),
    #[error(transparent)]
    Guard(#[from] Ended),
    #[error("the NSQ client stopped, as it does when nsqd refuses a command")]
    ClientStopped,
    #[error("the NSQ client panicked")]
    ClientPanicked,
    #[error("told to stop")]
    Stopped,
}

/// Reads heartbeats from `nsqd` until `stop`; then the connection is closed.
pub(super) async fn run(
    nsqd: Arc<Nsqd>,
    settings: Arc<Settings>,
    intake: Arc<Intake>,
    stop: CancellationToken,
) {
    let mut failures: u32 = 0;
    while !stop.is_cancelled() {
        // In a task of its own: a panic in tokio-nsq costs this session and no more. It is awaited and never
        // aborted, since tokio-nsq panics as well when it is dropped together with its runtime.
        let session = session(nsqd.clone(), settings.clone(), intake.clone(), stop.clone());
        let ended = tokio::spawn(session).await;
        nsqd.link.set_connected(false);
        let (down, connected_for) = ended.unwrap_or((Down::ClientPanicked, None));
        if matches!(down, Down::Stopped) {
            return;
        }
        // One that is lost as soon as it is there has not recovered.
        let recovered = connected_for.is_some_and(|connected_for| connected_for >= settings.silence_timeout);
        failures = if recovered { 1 } else { failures.saturating_add(1) };
        let nsqd = nsqd.name.as_str();
        // Once per change: the tries that follow say nothing new.
        match (connected_for, failures) {
            (Some(_), _) => tracing::warn!(nsqd, "heartbeats are no longer read from this nsqd: {down}"),
            (None, 1) => tracing::warn!(nsqd, "heartbeats cannot be read from this nsqd yet: {down}"),
            _ => tracing::debug!(nsqd, failures, "still no heartbeats from this nsqd: {down}"),
        }
        stop.run_until_cancelled(sleep(backoff(failures, settings.reconnect_max))).await;
    }
}

/// Doubling, with jitter: when an nsqd comes back, its gateways should not all come at once.
fn backoff(failures: u32, most: Duration) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(most).mul_f64(rand::rng().random_range(0.5..1.0))
}

/// One connection, from its beginning to its end; and for how long heartbeats were read in between.
async fn session(
    nsqd: Arc<Nsqd>,
    settings: Arc<Settings>,
    intake: Arc<Intake>,
    stop: CancellationToken,
) -> (Down, Option<Duration>) {
    let connected = tokio::select! {
        () = stop.cancelled() => Err(Down::Stopped),
        connected = connect(&nsqd.name, &settings) => connected,
    };
    let (client, upstream, mut consumer) = match connected {
        Ok(connected) => connected,
        Err(down) => return (down, None),
    };
    let mut subscribed = None;
    let down = tokio::select! {
        () = stop.cancelled() => Down::Stopped,
        ended = guard::relay(client, upstream, settings.silence_timeout) => Down::Guard(ended),
        down = consume(&mut consumer, &nsqd, &settings, &intake, || {
            subscribed = Some(Instant::now());
            nsqd.link.set_connected(true);
        }) => down,
    };
    (down, subscribed.map(|since| since.elapsed()))
}

/// A connection to nsqd, and a consumer that speaks through it: `consumer <-> client <-> (guard) <-> nsqd`.
async fn connect(nsqd: &str, settings: &Settings) -> Result<(TcpStream, TcpStream, NSQConsumer), Down> {
    let within = settings.connect_timeout;
    let upstream = timeout(within, TcpStream::connect(nsqd)).await;
    let upstream = upstream.map_err(|_| Down::ConnectTimeout(within))?.map_err(Down::Connect)?;
    let _ = upstream.set_nodelay(true); // only a matter of delay
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Down::Relay)?;
    let relay = listener.local_addr().map_err(Down::Relay)?;
    let shared = NSQConfigShared::new()
        .set_flush_interval(FLUSH_INTERVAL)
        .set_client_id(&settings.client_id)
        .set_user_agent(concat!("nsq-gateway/", env!("CARGO_PKG_VERSION")));
    let consumer = NSQConsumerConfig::new(settings.topic.clone(), settings.channel.clone())
        .set_max_in_flight(MAX_IN_FLIGHT)
        .set_shared(shared)
        .set_sources(NSQConsumerConfigSources::Daemons(vec![relay.to_string()]))
        .build();
    let accepted = timeout(within, listener.accept()).await;
    let (client, _) = accepted.map_err(|_| Down::ConnectTimeout(within))?.map_err(Down::Relay)?;
    let _ = client.set_nodelay(true);
    Ok((client, upstream, consumer))
}

async fn consume(
    consumer: &mut NSQConsumer,
    nsqd: &Nsqd,
    settings: &Settings,
    intake: &Intake,
    on_subscribed: impl FnOnce(),
) -> Down {
    // The first event is `Healthy`, after nsqd has acknowledged the subscription.
    match timeout(settings.connect_timeout, consumer.consume()).await {
        Err(_) => return Down::NotSubscribed(settings.connect_timeout),
        Ok(None) => return Down::ClientStopped,
        Ok(Some(_)) => {}
    }
    // Of a wrong clock a message tells nothing that a backlog would not tell as well.
    nsqd.ask_anew().await;
    on_subscribed();
    tracing::info!(nsqd = nsqd.name, "heartbeats are read from this nsqd");
    tokio::select! {
        () = read(consumer, nsqd, intake) => Down::ClientStopped,
        never = nsqd.watch() => match never {},
    }
}

/// Takes messages until the client stops.
async fn read(consumer: &mut NSQConsumer, nsqd: &Nsqd, intake: &Intake) {
    while let Some(event) = consumer.consume().await {
        if let NSQEvent::Message(message) = event {
            let received = Instant::now();
            let age = nsqd.age(message.timestamp, message.attempt, received);
            intake.take(&Message { body: &message.body, age, received, nsqd: &nsqd.name });
            message.finish().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_its_limit_and_no_further() {
        let most = Duration::from_secs(3);
        for failures in 1..100 {
            let wait = backoff(failures, most);
            assert!(wait <= most && wait >= BACKOFF_MIN / 2, "{wait:?}");
        }
        assert!(backoff(50, most) >= most / 2);
    }
}
