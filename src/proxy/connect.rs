//! New connections to dataservers.

mod http2;
mod life;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

use super::Worker;
use super::pool::{Http1Connection, Upstream};
use crate::addr::Addr;
use crate::http1::Client;
use crate::registry::Failure;

pub(super) use http2::{Driver, LocalExecutor, Sending, Terms as Http2Terms, http2};
pub(super) use life::{limit_unacknowledged, may_have_no_room};

/// A connection for one HTTP/1.1 request after the other.
pub(super) async fn http1(worker: &Worker, upstream: &Upstream) -> Result<Http1Connection, Failure> {
    let settings = worker.settings();
    let within = settings.timeouts.connect;
    let stream = timeout(within, dial(worker, upstream)).await.map_err(|_| Failure::ConnectTimeout)??;
    Ok(Http1Connection::new(Client::new(stream, worker.scratch.clone()), settings.timeouts.unacknowledged))
}

async fn dial(worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Failure> {
    let stream = dial_any(worker, upstream).await?;
    let _ = stream.set_nodelay(true); // only a matter of delay
    life::expect_signs(&stream, worker.settings().timeouts.unacknowledged);
    Ok(stream)
}

async fn dial_any(worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Failure> {
    let may_dial = |target: &SocketAddr| worker.fixed.dialable.permits(*target);
    if let Some(target) = upstream.addr.socket_addr() {
        if !may_dial(&target) {
            return Err(Failure::Resolve);
        }
        return TcpStream::connect(target).await.map_err(|error| Failure::to_connect(&error));
    }
    let targets = upstream.resolved.targets(&upstream.addr, worker.settings().timeouts.resolved).await?;
    let mut failure = Failure::Resolve;
    for target in targets.iter().copied().filter(may_dial) {
        match TcpStream::connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Failure::to_connect(&error),
        }
    }
    Err(failure)
}

/// The addresses of a dataserver's name. One lookup at a time, which goes on when whoever asked for it has left: a name
/// server that hangs holds one thread for each name, not one for each request.
#[derive(Default)]
pub(super) struct Resolved {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<(Instant, Rc<[SocketAddr]>)>,
    lookup: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Resolved {
    async fn targets(&self, addr: &Addr, fresh: Duration) -> Result<Rc<[SocketAddr]>, Failure> {
        let name = addr.as_str().to_owned();
        self.resolve(fresh, move || Ok(name.to_socket_addrs()?.collect())).await
    }

    /// By `lookup`, which may take as long as it likes.
    async fn resolve(
        &self,
        fresh: Duration,
        lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Rc<[SocketAddr]>, Failure> {
        let mut state = self.state.lock().await;
        if let Some((at, targets)) = &state.last
            && at.elapsed() < fresh
        {
            return Ok(targets.clone());
        }
        let found = state.lookup.get_or_insert_with(|| spawn_blocking(lookup)).await;
        state.lookup = None;
        let targets: Rc<[_]> = found.ok().and_then(Result::ok).ok_or(Failure::Resolve)?.into();
        state.last = Some((Instant::now(), targets.clone()));
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_name_server_that_hangs_is_asked_once_whoever_waits_and_leaves() {
        let (resolved, asked) = (Resolved::default(), Arc::new(AtomicUsize::new(0)));
        let (answer, answers) = mpsc::channel();
        let answers = Arc::new(std::sync::Mutex::new(answers));
        let resolve = || {
            let (asked, answers) = (asked.clone(), answers.clone());
            resolved.resolve(Duration::from_secs(60), move || {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(answers.lock().unwrap().recv().unwrap_or_default())
            })
        };
        for _ in 0..5 {
            assert!(timeout(Duration::from_millis(5), resolve()).await.is_err());
        }
        let target = SocketAddr::from(([10, 0, 0, 1], 80));
        answer.send(vec![target]).unwrap();
        for _ in 0..2 {
            let resolved = timeout(Duration::from_secs(20), resolve()).await.expect("it was answered");
            assert_eq!(resolved.ok().as_deref(), Some(&[target][..]));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
