//! Taking over from a gateway that runs: the new one gets the old one's listening sockets and its live set, and the old
//! one leaves when the new one is ready.
//!
//! The sockets themselves are handed over, and with them the connections that wait in their queues. To share the port by
//! `SO_REUSEPORT` instead would lose those: when the old gateway closes a socket, the kernel resets whoever waits there, if
//! `net.ipv4.tcp_migrate_req` is not set, which it seldom is.
//!
//! They meet at a Unix socket whose name says where the old one listens. It is in the abstract namespace, which belongs to
//! the network as ports do, and leaves no file behind. Anybody may connect there, so each side looks who the other is.

mod wire;

use std::io::{self, Read, Write};
use std::net;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Uid, geteuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use wire::{Estate, Role};

/// The longest that either side may take for what it has at hand.
const PATIENCE: Duration = Duration::from_secs(10);

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// How many may wait at the meeting point.
const WAITING: i32 = 16;

/// What the new one says when it is ready, and the old one when it leaves, or when it waits no longer.
const READY: u8 = b'r';
const YOURS: u8 = b'y';
const TOO_LATE: u8 = b'l';

/// Where the gateway that listens there meets who is to take over.
fn meeting_point(listen: net::SocketAddr) -> io::Result<SocketAddr> {
    abstract_name(&format!("nsq-gateway takeover {listen}"))
}

#[cfg(target_os = "linux")]
fn abstract_name(name: &str) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_name(_: &str) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Root and whoever this gateway runs as may do with it as they like anyway. Returns the number of its process, which one in
/// another PID namespace has none of here.
fn look_at(peer: &tokio::net::UnixStream) -> io::Result<Option<i32>> {
    let peer = peer.peer_cred()?;
    if ![Uid::ROOT, geteuid()].map(Uid::as_raw).contains(&peer.uid()) {
        let who = format!("the process at the other end belongs to user {}", peer.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, who));
    }
    Ok(peer.pid().filter(|pid| *pid != 0))
}

/// The running gateway's side: whoever comes may take over.
pub struct Offer {
    listener: tokio::net::UnixListener,
    /// How long somebody may take to get ready.
    patience: Duration,
    /// Somebody has the sockets, and may not be ready yet.
    given: watch::Sender<bool>,
    /// Who has taken over. It serves as soon as this is closed.
    successor: OnceLock<tokio::net::UnixStream>,
}

impl Offer {
    /// For a gateway that listens there. `inherited` is the meeting point of the gateway that it has taken over from. Who is
    /// not ready within `patience` does not take over: while it is waited for, nobody else could.
    ///
    /// # Errors
    /// When somebody else meets there.
    pub fn new(
        listen: net::SocketAddr,
        inherited: Option<UnixListener>,
        patience: Duration,
    ) -> io::Result<Self> {
        let listener = match inherited {
            Some(listener) => listener,
            None => UnixListener::bind_addr(&meeting_point(listen)?)?,
        };
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        Ok(Self { listener, patience, given: watch::Sender::default(), successor: OnceLock::new() })
    }

    /// The meeting point, for the estate.
    ///
    /// # Errors
    /// When file descriptors have run out.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Whether somebody has the sockets: while [`taken_over`](Self::taken_over) is there and has been polled, and from when it
    /// has resolved.
    pub fn is_given(&self) -> bool {
        *self.given.borrow()
    }

    /// Resolves when nobody has the sockets, or nobody any more.
    pub async fn is_taken_back(&self) {
        let _ = self.given.subscribe().wait_for(|given| !given).await; // its sender is here
    }

    /// Resolves when somebody has taken over, with the number of its process if it can be seen. Until it is ready it has cost
    /// nothing: if it ends before, all is as it was. From then on it waits for this offer to be dropped, before it serves: by
    /// then this gateway must have left what only one of them can have.
    pub async fn taken_over(&self, estate: impl Fn() -> io::Result<Estate>) -> Option<i32> {
        // To whoever connects, the process at the other end is the one that has called this last: the first of them all, where
        // the meeting point was inherited.
        if let Err(error) = rustix::net::listen(&self.listener, WAITING) {
            tracing::debug!(%error, "who takes over sees another process here");
        }
        loop {
            match self.meet(&estate).await {
                Ok(pid) => return pid,
                Err(error) => {
                    tracing::warn!("nobody has taken over: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn meet(&self, estate: &impl Fn() -> io::Result<Estate>) -> io::Result<Option<i32>> {
        let (stream, _) = self.listener.accept().await?;
        let pid = look_at(&stream)?;
        let stream = stream.into_std()?;
        tracing::info!(pid, "a gateway wants to take over");
        let estate = estate()?;
        self.given.send_replace(true);
        let given = Given(&self.given);
        let sent = spawn_blocking(move || {
            blocking(&stream)?;
            wire::send(&stream, &estate)?;
            stream.set_nonblocking(true)?;
            io::Result::Ok(stream)
        });
        let mut stream = tokio::net::UnixStream::from_std(sent.await??)?;
        // It waits for dataservers; if it ends, so does the connection.
        let Ok(said) = timeout(self.patience, stream.read_u8()).await else {
            // Or it would take the end of the connection for ours, and serve beside this gateway.
            let _ = stream.try_write(&[TOO_LATE]);
            let why = format!("it was not ready within {} s", self.patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        };
        let said = said.map_err(broke_off)?;
        if said != READY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it says what it should not"));
        }
        stream.write_u8(YOURS).await?;
        let _ = self.successor.set(stream); // there is one, since this is the end of the offer
        std::mem::forget(given);
        Ok(pid)
    }
}

/// Takes back what was given, unless it was taken.
struct Given<'a>(&'a watch::Sender<bool>);

impl Drop for Given<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// The new gateway's side: the old one, which still serves.
pub struct Predecessor {
    stream: UnixStream,
    /// The number of its process, if it can be seen.
    pub pid: Option<i32>,
    /// What it leaves.
    pub estate: Estate,
}

impl Predecessor {
    /// The gateway that listens there; `None` if there is none. Blocks, on a thread of a runtime.
    ///
    /// # Errors
    /// When it does not do as it should within some seconds, or somebody else is there. `set_bytes` is the most that its
    /// live set may have.
    pub fn meet(listen: net::SocketAddr, set_bytes: u64) -> io::Result<Option<Self>> {
        let stream = match UnixStream::connect_addr(&meeting_point(listen)?) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        let pid = look_at(&stream)?;
        let stream = stream.into_std()?;
        blocking(&stream)?;
        let estate = wire::receive(&stream, set_bytes).map_err(broke_off)?;
        Ok(Some(Self { stream, pid, estate }))
    }

    /// Takes the sockets out of what it leaves.
    pub fn sockets(&mut self) -> Estate {
        Estate {
            shared: self.estate.shared,
            sockets: std::mem::take(&mut self.estate.sockets),
            set: Vec::new(),
        }
    }

    /// Tells it to leave, and waits until it takes nothing more in than users. Blocks. Told to `stop` before that, it leaves it
    /// as it is, and returns false: from then on nobody else would serve.
    ///
    /// # Errors
    /// When it still runs, and does not answer or waits no longer.
    pub fn take_over(mut self, stop: &CancellationToken) -> io::Result<bool> {
        if stop.is_cancelled() {
            return Ok(false);
        }
        let _ = self.stream.write_all(&[READY]); // where that fails, what it has said before is to be read
        let mut said = [0; 1];
        match self.stream.read_exact(&mut said) {
            Ok(()) if said == [TOO_LATE] => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "it has waited for too long, and goes on"))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(error)
            }
            _ => {
                // Nothing comes but the end: it leaves, or has left by itself. It has said that it does, so that to wait for longer
                // than `PATIENCE` is no error.
                let _ = self.stream.read_exact(&mut said);
                Ok(true)
            }
        }
    }
}

/// The end of the connection is the other's.
fn broke_off(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => {
            io::Error::new(kind, "the other one broke off; its log may say why")
        }
        _ => error,
    }
}

fn blocking(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Until then, what only one of them can have may still be the old one's.
    #[tokio::test]
    async fn the_new_one_waits_until_the_offer_is_gone() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let offer = Offer::new(listen, None, PATIENCE).unwrap();
        let left = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&left);
        let new = spawn_blocking(move || {
            let predecessor = Predecessor::meet(listen, 0).unwrap().expect("somebody there");
            assert!(predecessor.take_over(&CancellationToken::new()).unwrap());
            seen.load(Ordering::SeqCst)
        });
        offer.taken_over(|| Ok(Estate::default())).await;
        tokio::time::sleep(Duration::from_millis(100)).await; // in which it must not go on
        left.store(true, Ordering::SeqCst);
        drop(offer);
        assert!(new.await.unwrap());
    }

    /// Another one can, and the first must not serve beside it.
    #[tokio::test]
    async fn who_does_not_get_ready_does_not_take_over() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let offer = Offer::new(listen, None, Duration::from_millis(200)).unwrap();
        let new = spawn_blocking(move || {
            let hangs = Predecessor::meet(listen, 0).unwrap().expect("somebody there");
            let next = Predecessor::meet(listen, 0).unwrap().expect("somebody there");
            [hangs, next].map(|new| new.take_over(&CancellationToken::new()).map_err(|error| error.kind()))
        });
        offer.taken_over(|| Ok(Estate::default())).await;
        assert!(offer.is_given());
        drop(offer);
        assert_eq!(new.await.unwrap(), [Err(io::ErrorKind::TimedOut), Ok(true)]);
    }

    /// It has no file descriptor left, say: its log tells.
    #[tokio::test]
    async fn who_is_left_by_the_other_learns_that_it_broke_off() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let offer = Offer::new(listen, None, PATIENCE).unwrap();
        let new = spawn_blocking(move || Predecessor::meet(listen, 0).err().expect("an error").to_string());
        tokio::select! {
            _ = offer.taken_over(|| Err(io::ErrorKind::OutOfMemory.into())) => panic!("taken over"),
            said = new => assert!(said.unwrap().contains("broke off")),
        }
    }
}
