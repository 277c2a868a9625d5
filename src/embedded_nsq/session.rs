//! One client's conversation: what each command does to the broker, and what is answered.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::broker::Broker;
use super::channel::NotInFlight;
use super::consumer::{ClientId, ClientInfo};
use super::identify::Settings;
use super::message::{WireId, wall_clock_nanos};
use super::names::Name;
use super::protocol::{Command, CommandError, Phase};
use super::subscription::Subscription;

pub(super) struct Session {
    broker: Broker,
    id: ClientId,
    remote: SocketAddr,
    connected_at: i64,
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) subscription: Option<Subscription>,
    /// What `/stats` tells; made when the client first publishes or subscribes.
    info: Option<Arc<ClientInfo>>,
}

/// The data of a response frame; `None` for commands that are not answered.
type Answer = Option<Cow<'static, [u8]>>;

const OK: Answer = Some(Cow::Borrowed(b"OK"));

impl Session {
    pub(super) fn new(broker: Broker, remote: SocketAddr) -> Self {
        Self {
            id: broker.new_client_id(),
            remote,
            connected_at: wall_clock_nanos() / 1_000_000_000,
            settings: Settings::new(&remote.ip().to_string(), broker.limits()),
            phase: Phase::Init,
            subscription: None,
            info: None,
            broker,
        }
    }

    pub(super) fn execute(&mut self, command: Command<'_>) -> Result<Answer, CommandError> {
        match command {
            Command::Nop => Ok(None),
            Command::Identify(body) => {
                let answer = self.settings.identify(body, self.broker.limits())?;
                self.forget_info();
                Ok(Some(Cow::Owned(answer)))
            }
            Command::Auth => Err(CommandError::fatal("E_AUTH_DISABLED", "AUTH disabled")),
            Command::Sub { topic, channel } => self.subscribe(topic, channel),
            Command::Pub { topic, body } => {
                self.publish(topic, &[body], Duration::ZERO, "E_PUB_FAILED", "PUB")
            }
            Command::MultiPub { topic, bodies } => {
                self.publish(topic, &bodies, Duration::ZERO, "E_MPUB_FAILED", "MPUB")
            }
            Command::DeferredPub { topic, body, delay } => {
                self.publish(topic, &[body], delay, "E_DPUB_FAILED", "DPUB")
            }
            Command::Ready(count) => {
                self.subscription()?.set_ready(count);
                Ok(None)
            }
            Command::Close => {
                self.subscription()?.start_close();
                self.phase = Phase::Closing;
                Ok(Some(Cow::Borrowed(b"CLOSE_WAIT")))
            }
            Command::Finish(id) => {
                let result = self.subscription()?.finish(id);
                answered(result, "E_FIN_FAILED", "FIN", id)
            }
            Command::Requeue { id, delay } => {
                let result = self.subscription()?.requeue(id, delay);
                answered(result, "E_REQ_FAILED", "REQ", id)
            }
            Command::Touch(id) => {
                let result = self.subscription()?.touch(id);
                answered(result, "E_TOUCH_FAILED", "TOUCH", id)
            }
        }
    }

    fn subscribe(&mut self, topic: Name<'_>, channel: Name<'_>) -> Result<Answer, CommandError> {
        if self.settings.heartbeat_interval.is_none() {
            return Err(CommandError::fatal("E_INVALID", "cannot SUB with heartbeats disabled"));
        }
        let info = self.info();
        let subscription = self
            .broker
            .subscribe(topic, channel, &info, self.settings.msg_timeout)
            .map_err(|refused| CommandError::fatal("E_SUB_FAILED", format!("SUB failed {refused}")))?;
        self.subscription = Some(subscription);
        self.phase = Phase::Subscribed;
        Ok(OK)
    }

    fn publish(
        &mut self,
        topic: Name<'_>,
        bodies: &[&[u8]],
        delay: Duration,
        failed: &'static str,
        verb: &str,
    ) -> Result<Answer, CommandError> {
        // Copied, not sliced from the read buffer: a message that stays must not keep its
        // neighbours' memory alive.
        let copies = bodies.iter().map(|body| Bytes::copy_from_slice(body));
        self.broker
            .publish(topic, copies, delay)
            .map_err(|refused| CommandError::fatal(failed, format!("{verb} failed {refused}")))?;
        let info = self.info();
        self.broker.count_published(&info, topic, bodies.len() as u64);
        Ok(OK)
    }

    /// The grammar lets these commands through only with a subscription; an error, not a panic,
    /// keeps it so.
    fn subscription(&self) -> Result<&Subscription, CommandError> {
        self.subscription.as_ref().ok_or_else(|| CommandError::fatal("E_INVALID", "not subscribed"))
    }

    fn info(&mut self) -> Arc<ClientInfo> {
        let info = self.info.get_or_insert_with(|| {
            Arc::new(ClientInfo {
                id: self.id,
                remote: self.remote,
                connected_at: self.connected_at,
                client_id: self.settings.client_id.clone(),
                hostname: self.settings.hostname.clone(),
                user_agent: self.settings.user_agent.clone(),
                sample_rate: self.settings.sample_rate,
            })
        });
        Arc::clone(info)
    }

    fn forget_info(&mut self) {
        if self.info.take().is_some() {
            self.broker.forget_producer(self.id);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.forget_info();
    }
}

/// A message that is not in flight was most likely answered too late: the connection goes on.
fn answered(
    result: Result<(), NotInFlight>,
    failed: &'static str,
    verb: &str,
    id: WireId,
) -> Result<Answer, CommandError> {
    match result {
        Ok(()) => Ok(None),
        Err(reason) => {
            let text = format!("{verb} {} failed {reason}", id.escape_ascii());
            Err(CommandError::passing(failed, text))
        }
    }
}
