//! Switching protocols (RFC 9110 §7.8), as WebSocket does: after a 101 bytes go both ways as they come.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use tower::Service;

use super::Worker;
use super::access_log::Entry;
use super::body::{Body, RequestBody};
use super::error::Error;
use super::pool::Lease;
use crate::http1;
use crate::message::{Name, Request, Response};

/// Bytes that a tunnel holds for each direction.
const BUFFER: usize = 16 * 1024;

/// Makes a tunnel of an exchange whose answer is 101.
#[derive(Clone)]
pub(super) struct Upgrade<S> {
    inner: S,
    worker: Rc<Worker>,
}

impl<S> Upgrade<S> {
    pub(super) fn new(inner: S, worker: Rc<Worker>) -> Self {
        Self { inner, worker }
    }
}

impl<S> Service<Request<RequestBody>> for Upgrade<S>
where
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = UpgradeFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        // The layer above leaves the field only where a user wants to switch.
        let wanted = request.headers().contains(Name::Upgrade);
        let entry = request.body().entry().filter(|_| wanted);
        let user = if wanted { request.body().on_upgrade() } else { None };
        UpgradeFuture { inner: self.inner.call(request), user, entry, worker: self.worker.clone() }
    }
}

pin_project! {
    pub(super) struct UpgradeFuture<F> {
        #[pin]
        inner: F,
        user: Option<http1::OnUpgrade>,
        entry: Option<Rc<Entry>>,
        worker: Rc<Worker>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for UpgradeFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(user) = this.user.take()
        {
            let lease = response.body_mut().take_lease();
            let idle = this.worker.settings().timeouts.idle_tunnel;
            let tunnel = this.worker.tunnels.track_future(tunnel(user, idle, lease, this.entry.take()));
            tokio::task::spawn_local(tunnel);
        }
        Poll::Ready(Ok(response))
    }
}

/// Carries bytes until both sides have ended, one fails, or nothing has moved for `idle`. The lease keeps the
/// dataserver's count of what is under way.
async fn tunnel(user: http1::OnUpgrade, idle: Duration, lease: Option<Lease>, entry: Option<Rc<Entry>>) {
    let dataserver = lease.as_ref().and_then(Lease::upgraded);
    let (Ok(user), Some(dataserver)) = (user.await, dataserver) else {
        return tracing::debug!("a switch of protocols came to nothing");
    };
    let (user_reads, user_writes) = tokio::io::split(user);
    let (dataserver_reads, dataserver_writes) = tokio::io::split(dataserver);
    let moved = Cell::new(Instant::now());
    let note = |bytes, count: fn(&Entry, usize)| {
        moved.set(Instant::now());
        if let Some(entry) = &entry {
            count(entry, bytes);
        }
    };
    let both = async {
        tokio::try_join!(
            carry(user_reads, dataserver_writes, |bytes| note(bytes, Entry::add_in)),
            carry(dataserver_reads, user_writes, |bytes| note(bytes, Entry::add_out)),
        )
    };
    tokio::select! {
        ended = both => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a tunnel broke");
            }
        }
        () = idle_for(idle, &moved) => tracing::debug!("a tunnel was idle for timeouts.idle_tunnel"),
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    carried: impl Fn(usize),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        // What TLS holds back would go out with what comes next, which may be nothing.
        to.flush().await?;
        carried(read);
    }
}

async fn idle_for(limit: Duration, moved: &Cell<Instant>) {
    while moved.get().elapsed() < limit {
        sleep_until(moved.get() + limit).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{BufWriter, duplex};

    use super::*;

    /// As TLS does while its socket takes no more.
    #[tokio::test]
    async fn nothing_stays_in_a_writer_that_holds_bytes_back() {
        let ((mut from, from_end), (to, mut to_end)) = (duplex(1024), duplex(1024));
        let carried = tokio::spawn(carry(from_end, BufWriter::new(to), |_| {}));
        let mut got = [0; 5];
        for word in [b"first", b"later"] {
            from.write_all(word).await.unwrap();
            let arrives = to_end.read_exact(&mut got);
            tokio::time::timeout(Duration::from_secs(20), arrives).await.expect("held back").unwrap();
            assert_eq!(&got, word);
        }
        drop(from);
        assert!(carried.await.unwrap().is_ok());
    }
}
