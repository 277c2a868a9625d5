//! A worker's way in: its listeners, and closing them without losing whoever waits there.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::listen;
use super::spread::Accepted;

/// A connection that has no place yet.
pub(super) type Waiting = (TcpStream, SocketAddr);

/// The listeners of one worker.
pub(super) struct Door {
    listeners: Vec<TcpListener>,
    /// Which is asked first: one where there is always somebody must not keep the others waiting.
    first: usize,
    places: Arc<Semaphore>,
    /// Over the limit: accepted, but not read. The others wait in the kernel's queues.
    waiting: Option<Waiting>,
}

impl Door {
    pub(super) fn new(listeners: Vec<TcpListener>, places: Arc<Semaphore>) -> Self {
        Self { listeners, first: 0, places, waiting: None }
    }

    /// The next connection, and a place for it. May be dropped at any point, and nobody is lost.
    pub(super) async fn next(&mut self) -> io::Result<Accepted> {
        if self.waiting.is_none() {
            self.waiting = Some(poll_fn(|cx| self.poll_accept(cx)).await?);
        }
        let permit = self.places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.waiting.take().ok_or(io::ErrorKind::WouldBlock)?;
        Ok((stream, peer, permit))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Waiting>> {
        let count = self.listeners.len();
        for n in 0..count {
            let index = (self.first + n) % count;
            if let Some(listener) = self.listeners.get(index)
                && let Poll::Ready(accepted) = listener.poll_accept(cx)
            {
                self.first = index + 1;
                if let Ok((stream, _)) = &accepted {
                    expect_nothing_yet(stream);
                }
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    /// From now on nobody new gets into the queues; who is about to still does.
    pub(super) fn take_no_more(&self) {
        for listener in &self.listeners {
            if let Err(error) = listen::take_no_more(listener) {
                tracing::debug!(%error, "a connection that comes at the last moment may be reset");
            }
        }
    }

    /// Closes the listeners. Whoever waits for a place is still to be served: closed with somebody in its queue, a
    /// listener would reset them. The kernel itself is asked: tokio knows only what its last look has told.
    pub(super) fn close(self) -> VecDeque<Waiting> {
        let mut waiting = VecDeque::from_iter(self.waiting);
        for listener in self.listeners.into_iter().filter_map(|listener| listener.into_std().ok()) {
            while let Ok((stream, peer)) = listener.accept() {
                let _ = stream.set_nonblocking(true); // or `from_std` refuses it, and it is closed
                waiting.extend(TcpStream::from_std(stream).ok().map(|stream| (stream, peer)));
            }
        }
        waiting
    }

    /// As [`close`](Self::close), where somebody else has the listeners as well and takes whoever is in their queues.
    pub(super) fn leave(self) -> VecDeque<Waiting> {
        VecDeque::from_iter(self.waiting)
    }
}

/// Tokio takes a new socket for readable, and a read before the first request has come would be in vain. Only for one that was
/// registered just now, and by a runtime of one thread: it must not have been told of anything yet, which it would forget.
fn expect_nothing_yet(stream: &TcpStream) {
    let nothing: io::Result<()> = stream.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
    drop(nothing); // that is what it says
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_came_before_its_connection_was_accepted_is_read_when_the_kernel_has_told_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut user = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        user.write_all(b"early").unwrap(); // loopback delivers before this returns
        let mut door = Door::new(vec![listener], Arc::new(Semaphore::new(1)));
        let (stream, _, _place) = door.next().await.unwrap();
        let mut bytes = [0; 9];
        assert_eq!(stream.try_read(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        timeout(Duration::from_secs(60), stream.readable()).await.expect("it was forgotten").unwrap();
        assert_eq!(stream.try_read(&mut bytes).unwrap(), 5);
    }
}
