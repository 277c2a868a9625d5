//! What the name of a dataserver leads to, and connecting to the first of it that is well.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

use crate::addr::Addr;

/// Names that are looked up at once, at most: each has a thread for as long as name servers say nothing, and a runtime's threads
/// are 512, for reading the config and handing over the sockets as well.
const AT_ONCE: usize = 256;

static LOOKUPS: Semaphore = Semaphore::const_new(AT_ONCE);

/// The addresses of one name. One lookup at a time, which goes on when whoever asked for it has left: a name
/// server that hangs holds one thread for each name, not one for each who asks. Addresses that are known stay in use while
/// no others can be had: who answers there is not gone because a name server is.
#[derive(Default)]
pub(crate) struct Resolved {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was found last, and since when that holds.
    known: Option<(Instant, Arc<[SocketAddr]>)>,
    lookup: Option<JoinHandle<Ended>>,
}

/// When a lookup ended, and what it found.
type Ended = (Instant, io::Result<Vec<SocketAddr>>);

impl Resolved {
    /// The addresses of `addr`, which is always the same one; not looked up again for as long as they are `fresh`. Where some
    /// are known, others are waited for only with `patience`.
    pub(crate) async fn targets(
        &self,
        addr: &Addr,
        fresh: Duration,
        patience: Duration,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let name = addr.as_str().to_owned();
        self.resolve(fresh, patience, move || Ok(name.to_socket_addrs()?.collect())).await
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
        patience: Duration,
        lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let mut state = self.state.lock().await;
        let State { known, lookup: running } = &mut *state;
        // One that ended when nobody waited any more tells where the name led then, which may be long ago.
        if let Some(ended) = running.take_if(|lookup| lookup.is_finished())
            && let Ok((since, Ok(found))) = ended.await
        {
            *known = Some((since, found.into()));
        }
        if let Some((since, targets)) = known
            && since.elapsed() < fresh
        {
            return Ok(targets.clone());
        }
        let lookup = running.get_or_insert_with(|| tokio::spawn(ended(lookup)));
        let ended = match known {
            Some(_) => timeout(patience, lookup).await.map_err(io::Error::from),
            None => Ok(lookup.await),
        };
        let found = ended.and_then(|ended| {
            *running = None;
            let (since, found) = ended.map_err(io::Error::other)?;
            Ok((since, found?))
        });
        match (found, known) {
            (Ok((since, found)), known) => {
                let targets: Arc<[_]> = found.into();
                *known = Some((since, targets.clone()));
                Ok(targets)
            }
            (Err(_), Some((since, targets))) => {
                // They hold for as long again, or everybody else would have to wait, too.
                *since = Instant::now();
                Ok(targets.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

async fn ended(lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static) -> Ended {
    let _turn = LOOKUPS.acquire().await; // it is never closed
    let found = spawn_blocking(lookup).await;
    (Instant::now(), found.map_err(io::Error::other).flatten())
}

/// Connects to the first of these that takes the connection. A share of the time until `deadline` is for each: one that says
/// nothing must not keep the others from being asked.
pub(crate) async fn connect(targets: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    for (target, share) in targets.iter().zip(shares(targets.len(), deadline)) {
        match timeout(share(), connect_to(*target)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(late) => failure = late.into(),
        }
    }
    Err(failure)
}

/// Connects to this address. Of one that no way leads to from here, as none does to IPv6 where there is none, the kernel says the
/// same as when all ports are used up. Only that is this machine's own lack.
pub(crate) async fn connect_to(target: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(target).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable if !is_there_a_way(target) => {
            io::ErrorKind::NetworkUnreachable.into()
        }
        _ => error,
    })
}

/// Whether a packet could be sent there. None is.
fn is_there_a_way(target: SocketAddr) -> bool {
    let any = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let tried = UdpSocket::bind(SocketAddr::new(any, 0)).and_then(|socket| socket.connect(target));
    // Anything else, as that there is no file descriptor left for it, does not tell.
    !tried.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// For each of `count` that are asked in turn, its share of what is then left until `deadline`.
pub(crate) fn shares(count: usize, deadline: Instant) -> impl Iterator<Item = impl Fn() -> Duration> {
    let left = (1..=count).rev().map(|left| u32::try_from(left).unwrap_or(u32::MAX));
    left.map(move |left| move || deadline.saturating_duration_since(Instant::now()) / left)
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
            resolved.resolve(Duration::from_secs(60), Duration::ZERO, move || {
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

    const PATIENT: Duration = Duration::from_secs(20);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[tokio::test]
    async fn addresses_that_are_known_stay_while_no_others_can_be_had() {
        let resolved = Resolved::default();
        let resolve = |lookup| resolved.resolve(Duration::ZERO, PATIENT, lookup);
        let fails: fn() -> _ = || Err(io::ErrorKind::NotFound.into());
        assert_eq!(resolve(fails).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(resolve(|| Ok(vec![address(1)])).await.unwrap()[..], [address(1)]);
        assert_eq!(resolve(fails).await.unwrap()[..], [address(1)]);
        assert_eq!(resolve(|| Ok(vec![address(2)])).await.unwrap()[..], [address(2)]);
    }

    #[tokio::test]
    async fn where_addresses_are_known_a_name_server_that_hangs_is_not_waited_for() {
        let (resolved, fresh, patience) = (Resolved::default(), Duration::ZERO, Duration::from_millis(20));
        let found = || Ok(vec![address(1)]);
        assert_eq!(resolved.resolve(fresh, patience, found).await.unwrap()[..], [address(1)]);
        let (answer, answers) = mpsc::channel();
        let hangs = move || Ok(vec![answers.recv().unwrap_or(address(9))]);
        assert_eq!(resolved.resolve(fresh, patience, hangs).await.unwrap()[..], [address(1)]);
        let begun = Instant::now();
        let waits = || panic!("there is one that hangs");
        assert_eq!(resolved.resolve(PATIENT, PATIENT, waits).await.unwrap()[..], [address(1)]);
        assert!(begun.elapsed() < PATIENT / 2, "those that are known count as fresh again");
        answer.send(address(2)).unwrap();
        has_ended(&resolved).await;
        assert_eq!(resolved.resolve(PATIENT, PATIENT, waits).await.unwrap()[..], [address(2)]);
    }

    async fn has_ended(resolved: &Resolved) {
        let begun = Instant::now();
        while resolved.is_looking_up() {
            assert!(begun.elapsed() < PATIENT);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Each of its lookups has a thread.
    #[tokio::test]
    async fn a_name_server_that_hangs_leaves_threads_to_others() {
        let (go_on, waits) = mpsc::channel::<()>();
        let waits = Arc::new(std::sync::Mutex::new(waits));
        let names: Vec<_> = (0..600).map(|_| Resolved::default()).collect();
        for resolved in &names {
            let waits = waits.clone();
            let hangs = move || {
                let _ = waits.lock().map(|waits| waits.recv());
                Ok(vec![address(1)])
            };
            assert!(
                timeout(Duration::from_micros(1), resolved.resolve(PATIENT, PATIENT, hangs)).await.is_err()
            );
        }
        timeout(PATIENT, spawn_blocking(|| ())).await.expect("no thread is left").unwrap();
        drop(go_on);
        for resolved in &names {
            has_ended(resolved).await;
        }
    }

    /// The name server was slow once, and nobody had to connect for a long time after that.
    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_is_as_old_as_it_is() {
        let fresh = Duration::from_millis(20);
        for answer in [|| Ok(vec![address(1)]), || Err(io::ErrorKind::NotFound.into())] {
            let resolved = Resolved::default();
            let (go_on, waits) = mpsc::channel::<()>();
            let slow = move || {
                let _ = waits.recv();
                answer()
            };
            assert!(timeout(Duration::from_millis(5), resolved.resolve(fresh, PATIENT, slow)).await.is_err());
            drop(go_on);
            has_ended(&resolved).await;
            tokio::time::sleep(2 * fresh).await;
            let found = resolved.resolve(fresh, PATIENT, || Ok(vec![address(2)])).await;
            assert_eq!(found.unwrap()[..], [address(2)], "where the name leads by now");
        }
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_leaves_time_for_the_next() {
        // Whose queue is full: the kernel answers nobody any more.
        let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&full).listen(0).unwrap();
        let silent = full.local_addr().unwrap();
        let _queue = std::net::TcpStream::connect(silent).unwrap();
        let well = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let well = well.local_addr().unwrap();
        let within = Duration::from_secs(2);
        let stream = connect(&[silent, well], Instant::now() + within).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), well);
        let failure = connect(&[silent], Instant::now() + within / 10).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
    }

    /// In a process of its own, in a network that leads nowhere: as to IPv6 in a container that has none.
    #[test]
    fn that_no_way_leads_somewhere_is_no_lack_of_ports() {
        const WHICH: &str = "resolved::tests::that_no_way_leads_somewhere_is_no_lack_of_ports";
        const ALONE: &str = "IN_A_NETWORK_THAT_LEADS_NOWHERE";
        if std::env::var_os(ALONE).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let target = "[2001:db8::1]:80".parse().unwrap();
            let plain = runtime.block_on(TcpStream::connect(target)).unwrap_err();
            assert_eq!(plain.kind(), io::ErrorKind::AddrNotAvailable, "the kernel says something else");
            let error = runtime.block_on(connect_to(target)).unwrap_err();
            return assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
        }
        let alone = |more: &[&str]| {
            let mut command = std::process::Command::new("unshare");
            command.arg("--net").args(more);
            command
        };
        let is_possible =
            |more: &&[&str]| alone(more).arg("true").status().is_ok_and(|status| status.success());
        let Some(more) = [&[][..], &["--map-root-user"]].into_iter().find(is_possible) else {
            assert!(std::env::var_os("CI").is_none(), "no network of its own to be had");
            return eprintln!("not tried: no network of its own to be had");
        };
        let mut command = alone(more);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", WHICH]).env(ALONE, "yes");
        assert!(command.status().unwrap().success());
    }
}
