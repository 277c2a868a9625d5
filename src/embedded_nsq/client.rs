//! One TCP connection: bytes between the socket and the session, in a single task.
//!
//! Reading and writing never wait for each other: a consumer that is busy taking messages can
//! still answer earlier ones. Memory stays bounded because messages are taken only while the
//! output buffer has room, and commands are read only while the answers to earlier ones are taken.

use std::net::SocketAddr;
use std::{io, pin::pin};

use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tracing::debug;

use super::broker::Broker;
use super::budget::Charge;
use super::message::Delivery;
use super::protocol::{
    CommandError, Decoded, MAGIC, decode, put_bad_protocol, put_error, put_message, put_response,
};
use super::session::Session;
use super::subscription::Subscription;
use super::vitals::{Verdict, Vitals};

/// Why a connection ends; the text is for the log.
#[derive(Debug, Error)]
enum End {
    #[error("closed by the client")]
    Closed,
    #[error("unknown protocol")]
    BadMagic,
    /// The error has been queued as the last answer.
    #[error("refused: {} {}", .0.code, .0.text)]
    Refused(CommandError),
    #[error("two heartbeats unanswered")]
    Silent,
    #[error("input or output stalled")]
    Stalled,
    #[error("its channel was deleted")]
    ChannelGone,
    #[error("too much partly arrived input on all connections")]
    InputMemoryFull,
    #[error("shutdown")]
    Shutdown,
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// Room made for each read.
const READ_BYTES: usize = 16 * 1024;
/// Answers that may wait before no more commands are read.
const ANSWER_BYTES: usize = 64 * 1024;
/// Buffers that grew beyond this are given back once they are empty.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;
/// Time for the last answer to leave, and for the client to close after it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves one connection until either side ends it or `shutdown` loses its sender.
pub(super) async fn serve(
    mut stream: TcpStream,
    remote: SocketAddr,
    broker: Broker,
    shutdown: watch::Receiver<()>,
) {
    debug!(client = %remote, "client connected");
    // Output is batched here already; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let mut output = BytesMut::new();
    let end = match greet(&mut stream, &broker, shutdown.clone()).await {
        Ok(()) => match Connection::new(broker, remote) {
            Some(mut connection) => {
                let end = connection.run(&mut stream, shutdown).await;
                output = std::mem::take(&mut connection.output);
                end
            }
            None => End::InputMemoryFull,
        },
        Err(end) => end,
    };
    if matches!(end, End::BadMagic) {
        put_bad_protocol(&mut output);
    }
    if !matches!(end, End::Silent | End::Stalled | End::Failed(_)) {
        let _ = timeout(FAREWELL, part(&mut stream, &output)).await;
    }
    debug!(client = %remote, reason = %end, "client disconnected");
}

async fn greet(
    stream: &mut TcpStream,
    broker: &Broker,
    mut shutdown: watch::Receiver<()>,
) -> Result<(), End> {
    let mut magic = [0; MAGIC.len()];
    let read = timeout(broker.limits().stall_timeout, stream.read_exact(&mut magic));
    let read = tokio::select! {
        read = read => read.map_err(|_| End::Silent)?,
        _ = shutdown.changed() => return Err(End::Shutdown),
    };
    match read {
        Ok(_) if &magic == MAGIC => Ok(()),
        Ok(_) => Err(End::BadMagic),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(End::Closed),
        Err(error) => Err(End::Failed(error)),
    }
}

/// Sends the last answers and waits for the client to close: closing over input that nobody read
/// would reset the connection, and the client might never see why.
async fn part(stream: &mut TcpStream, output: &[u8]) -> io::Result<()> {
    stream.write_all(output).await?;
    stream.shutdown().await?;
    let mut ignored = [0; 4096];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

struct Connection {
    broker: Broker,
    session: Session,
    vitals: Vitals,
    input: BytesMut,
    /// What `input` takes beyond the room for one read.
    input_charge: Charge,
    output: BytesMut,
    batch: Vec<Delivery>,
}

impl Connection {
    fn new(broker: Broker, remote: SocketAddr) -> Option<Self> {
        let session = Session::new(broker.clone(), remote);
        let interval = session.settings.heartbeat_interval;
        Some(Self {
            vitals: Vitals::new(interval, broker.limits().stall_timeout, Instant::now()),
            session,
            input: BytesMut::new(),
            input_charge: broker.input_charge()?,
            output: BytesMut::new(),
            batch: Vec::new(),
            broker,
        })
    }

    async fn run(&mut self, stream: &mut TcpStream, mut shutdown: watch::Receiver<()>) -> End {
        let (mut reader, mut writer) = stream.split();
        let mut timer = pin!(sleep_until(self.vitals.next_check(Instant::now())));
        // One message may overshoot the output buffer; only answers beyond it stop the reading.
        let limits = self.broker.limits();
        let read_below = limits.max_output_buffer_bytes + limits.message_bytes + ANSWER_BYTES;

        loop {
            if let Err(error) = self.execute_input(read_below) {
                put_error(&mut self.output, &error);
                return End::Refused(error);
            }
            let hungry = self.take_messages();
            let now = Instant::now();
            self.vitals.saw_output(false, !self.output.is_empty(), now);
            if self.vitals.set_interval(self.session.settings.heartbeat_interval, now) {
                timer.as_mut().reset(self.vitals.next_check(now));
            }
            let may_read = self.output.len() < read_below;
            if may_read && !self.make_room_to_read() {
                return End::InputMemoryFull;
            }

            tokio::select! {
                read = reader.read_buf(&mut self.input), if may_read => match read {
                    Ok(0) => return End::Closed,
                    Ok(_) => {}
                    Err(error) => return End::Failed(error),
                },
                written = writer.write(&self.output), if !self.output.is_empty() => match written {
                    Ok(bytes) => self.wrote(bytes),
                    Err(error) => return End::Failed(error),
                },
                changed = changed(&mut self.session.subscription, hungry) => {
                    if !changed {
                        return End::ChannelGone;
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    match self.vitals.check(now) {
                        Verdict::Fine => {}
                        Verdict::HeartbeatDue => put_response(&mut self.output, b"_heartbeat_"),
                        Verdict::Silent => return End::Silent,
                        Verdict::Stalled => return End::Stalled,
                    }
                    timer.as_mut().reset(self.vitals.next_check(now));
                }
                _ = shutdown.changed() => return End::Shutdown,
            }
        }
    }

    /// Executes every whole command of the input, as long as there is room for answers.
    fn execute_input(&mut self, read_below: usize) -> Result<(), CommandError> {
        let mut executed = false;
        while !self.input.is_empty() && self.output.len() < read_below {
            let limits = self.broker.limits();
            let Decoded::Whole(command, bytes) = decode(&self.input, self.session.phase, limits)? else {
                break;
            };
            match self.session.execute(command) {
                Ok(Some(answer)) => put_response(&mut self.output, &answer),
                Ok(None) => {}
                Err(error) if error.fatal => return Err(error),
                Err(error) => put_error(&mut self.output, &error),
            }
            self.input.advance(bytes);
            executed = true;
        }
        self.vitals.saw_input(executed, !self.input.is_empty(), Instant::now());
        Ok(())
    }

    /// Fills the output buffer with messages; says whether the client would take more.
    fn take_messages(&mut self) -> bool {
        let Some(subscription) = &self.session.subscription else {
            return false;
        };
        let buffer_bytes = self.session.settings.output_buffer_bytes;
        if self.output.len() >= buffer_bytes {
            return false;
        }
        let hungry = subscription.take(buffer_bytes - self.output.len(), &mut self.batch);
        for delivery in self.batch.drain(..) {
            put_message(&mut self.output, &delivery);
        }
        hungry && self.output.len() < buffer_bytes
    }

    /// False where too much partly arrived input waits already, over all connections.
    fn make_room_to_read(&mut self) -> bool {
        if self.input.is_empty() && self.input.capacity() > KEPT_BUFFER_BYTES {
            self.input = BytesMut::new();
        }
        self.input.reserve(READ_BYTES / 4);
        if self.input.capacity() < READ_BYTES {
            self.input.reserve(READ_BYTES);
        }
        self.input_charge.resize(self.input.capacity().saturating_sub(KEPT_BUFFER_BYTES))
    }

    fn wrote(&mut self, bytes: usize) {
        self.output.advance(bytes);
        if self.output.is_empty() && self.output.capacity() > KEPT_BUFFER_BYTES {
            self.output = BytesMut::new();
        }
        self.vitals.saw_output(bytes > 0, !self.output.is_empty(), Instant::now());
    }
}

/// Whether the subscription goes on, once something about it changed; never, without one.
async fn changed(subscription: &mut Option<Subscription>, hungry: bool) -> bool {
    match subscription {
        Some(subscription) => subscription.changed(hungry).await.is_ok(),
        None => std::future::pending().await,
    }
}
