//! What the name of a dataserver leads to.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use crate::addr::Addr;

/// The addresses of one name. One lookup at a time, which goes on when whoever asked for it has left: a name
/// server that hangs holds one thread for each name, not one for each who asks.
#[derive(Default)]
pub(crate) struct Resolved {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<(Instant, Arc<[SocketAddr]>)>,
    lookup: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Resolved {
    /// The addresses of `addr`, which is always the same one; not looked up again for as long as they are `fresh`.
    pub(crate) async fn targets(&self, addr: &Addr, fresh: Duration) -> io::Result<Arc<[SocketAddr]>> {
        let name = addr.as_str().to_owned();
        self.resolve(fresh, move || Ok(name.to_socket_addrs()?.collect())).await
    }

    /// Whether a lookup is under way.
    pub(crate) fn is_looking_up(&self) -> bool {
        // Whoever holds the lock waits for one.
        let Ok(state) = self.state.try_lock() else { return true };
        state.lookup.as_ref().is_some_and(|lookup| !lookup.is_finished())
    }

    /// By `lookup`, which may take as long as it likes.
    pub(crate) async fn resolve(
        &self,
        fresh: Duration,
        lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let mut state = self.state.lock().await;
        if let Some((at, targets)) = &state.last
            && at.elapsed() < fresh
        {
            return Ok(targets.clone());
        }
        let found = state.lookup.get_or_insert_with(|| spawn_blocking(lookup)).await;
        state.lookup = None;
        let targets: Arc<[_]> = found.map_err(io::Error::other)??.into();
        state.last = Some((Instant::now(), targets.clone()));
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::time::timeout;

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
