//! Who comes before and after this gateway: taking over from a running one, and being taken over from.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;
use std::{io, mem};

use anyhow::{Context, ensure};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::listeners::Doors;
use super::{StartError, start};
use crate::addr::Dialable;
use crate::config::Config;
use crate::liveness::snapshot::{self, Snapshot, TakenIn};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::server::Leave;
use crate::systemd::Passed;
use crate::takeover::{Estate, Offer, Predecessor, Role};

/// Told to stop while another gateway is about to take over, this one serves on for so long at most: who would serve, if the
/// other one failed?
pub(super) const TO_BE_READY: Duration = Duration::from_secs(10);

/// What starting takes besides finding dataservers, at most.
const START: Duration = Duration::from_secs(10);

/// A process that stood still learns at once of a signal and of time that has passed, in any order. The signal counts: it has
/// so long to be heard.
const SIGNAL: Duration = Duration::from_millis(20);

/// A gateway that leaves cannot be met any more, and still has its port for a moment.
const LEAVING: Duration = Duration::from_secs(2);

/// How often it is tried again meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// The doors of a gateway that takes over, and whom it takes them over from, if one runs there.
pub(super) async fn doors(
    config: &Config,
    mut passed: Vec<Passed>,
    workers: usize,
) -> Result<(Doors, Option<Predecessor>), StartError> {
    let listen = config.gateway.listen;
    tracing::info!(%listen, "taking over from the gateway that listens there, if there is one");
    // What was passed on can be had once.
    let until = Instant::now() + if passed.is_empty() { LEAVING } else { Duration::ZERO };
    loop {
        let mut old = match predecessor(config).await {
            Err(error) if has_left(&error) && Instant::now() < until => None,
            old => old?,
        };
        let sockets = old.as_mut().map(Predecessor::sockets).unwrap_or_default();
        match Doors::open(config, mem::take(&mut passed), sockets, workers).await {
            Err(StartError::Listen { key, addr, source })
                if old.is_none() && source.kind() == io::ErrorKind::AddrInUse =>
            {
                if Instant::now() >= until {
                    return Err(StartError::Other(anyhow::anyhow!(
                        "{key}: cannot listen on {addr}: {source}; set {key} to move it: nobody is there who could be taken over from"
                    )));
                }
            }
            opened => return Ok((opened?, old)),
        }
        sleep(AGAIN).await;
    }
}

/// The gateway that runs where this one is to listen; `None` if there is none.
async fn predecessor(config: &Config) -> anyhow::Result<Option<Predecessor>> {
    let (listen, set_bytes) = (config.gateway.listen, snapshot::max_bytes(&config.registry));
    let met = spawn_blocking(move || Predecessor::meet(listen, set_bytes)).await?;
    met.with_context(|| format!("nothing can be taken over from the gateway on {listen}"))
}

/// Whether that is what becomes of whoever comes to a gateway that leaves at that moment.
fn has_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// How a gateway is called whose process has this number, if it can be seen.
fn process(pid: Option<i32>) -> String {
    pid.map_or_else(|| "a process of another PID namespace".to_owned(), |pid| format!("process {pid}"))
}

/// The gateway that is taken over from, and what became of its set here.
pub(super) struct Old {
    predecessor: Predecessor,
    set: TakenIn,
}

impl Old {
    /// Takes its set in. To be done before anybody is heard: who is heard first would be taken at its word.
    pub(super) fn take_in(
        predecessor: Option<Predecessor>,
        registry: &Registry,
        dialable: &Dialable,
    ) -> anyhow::Result<Option<Self>> {
        let Some(predecessor) = predecessor else { return Ok(None) };
        let process = process(predecessor.pid);
        let set = snapshot::take_in(&predecessor.estate.set, registry, dialable).map_err(|why| {
            anyhow::anyhow!("the live set of {process}, which is to be taken over from, {why}")
        })?;
        let refused = set.refused;
        ensure!(
            !set.members.is_empty() || refused == 0,
            "this config refuses all {refused} dataservers of {process} (registry.allow, registry.capacity): \
             nothing is taken over"
        );
        Ok(Some(Self { predecessor, set }))
    }

    /// Its users must be served here as well: somebody whom it knew answers, if it knew anybody.
    fn must_be_answered(&self, registry: &Registry) -> anyhow::Result<()> {
        let TakenIn { members, refused } = &self.set;
        let (process, known) = (process(self.predecessor.pid), members.len() + refused);
        let refused =
            if *refused > 0 { format!(", {refused} of which this config refuses") } else { String::new() };
        ensure!(
            known == 0 || self.set.is_answered(registry),
            "none of the {known} dataservers of {process} answers here{refused}: nothing is taken over"
        );
        Ok(())
    }
}

/// What there may be before anybody is served.
pub(super) struct Before<'a> {
    pub(super) old: Option<Old>,
    pub(super) snapshot: &'a Snapshot,
    /// Users may wait at the listeners already.
    pub(super) waiting: bool,
}

impl Before<'_> {
    /// Finds the dataservers that are known from before, and takes over from a gateway that runs. Returns whether anybody
    /// is to be served: told to stop before it has taken over, a gateway leaves the other one as it is.
    pub(super) async fn served(
        self,
        registry: &Registry,
        metrics: &Metrics,
        config: &Config,
        stop: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let Some(old) = self.old else {
            self.snapshot.restore().await;
            if self.waiting {
                let nobody = TakenIn::default();
                let found = start::dataservers_found(&nobody, registry, metrics, config);
                // Told to stop, it still answers who has come.
                stop.run_until_cancelled(found).await;
            }
            return Ok(true);
        };
        let found = async {
            let found = start::dataservers_found(&old.set, registry, metrics, config).await;
            sleep(SIGNAL).await;
            found
        };
        let Some(found) = stop.run_until_cancelled(found).await else { return Ok(false) };
        old.must_be_answered(registry)?;
        let predecessor = old.predecessor;
        let (pid, stop) = (predecessor.pid, stop.clone());
        let taken_over = spawn_blocking(move || predecessor.take_over(&stop))
            .await?
            .with_context(|| format!("{}, which is to be taken over from, does not answer", process(pid)))?;
        if taken_over {
            tracing::info!(pid, dataservers = found, "taken over");
        }
        Ok(taken_over)
    }
}

/// That somebody may take over from this gateway.
pub(super) struct Succession {
    /// `None` if nobody can.
    offer: Option<(Offer, Estate)>,
    registry: Registry,
}

impl Succession {
    /// For a gateway that listens there, through these doors.
    pub(super) fn new(doors: &mut Doors, listen: &[SocketAddr], registry: Registry, config: &Config) -> Self {
        // The new one has a config of its own, which may leave it more time.
        let patience = START + 2 * start::longest(config);
        let met = doors.meeting_point.take();
        let listen = listen.first().copied().ok_or_else(|| io::Error::other("it has no listener"));
        let offer = listen.and_then(|listen| Offer::new(listen, met, patience)).and_then(|offer| {
            let mut estate = doors.estate()?;
            estate.sockets.push((Role::Takeover, offer.socket()?));
            Ok((offer, estate))
        });
        if let Err(error) = &offer {
            tracing::warn!("no other gateway can take over from this one: {error}");
        }
        Self { offer: offer.ok(), registry }
    }

    /// Resolves when another gateway has taken over.
    pub(super) async fn taken_over(&self) {
        let Some((offer, estate)) = &self.offer else { return pending().await };
        let estate = || {
            let sockets = estate.sockets.iter().map(|(role, socket)| Ok((*role, socket.try_clone()?)));
            let set = snapshot::encode(&self.registry)?;
            Ok(Estate { shared: estate.shared, sockets: sockets.collect::<io::Result<_>>()?, set })
        };
        let pid = offer.taken_over(estate).await;
        tracing::info!(pid, "another gateway has taken over");
    }

    /// How to leave the listeners. To be asked while [`taken_over`](Self::taken_over) is still there: with it goes what tells of
    /// somebody who has the sockets. Closed to newcomers, they would be so for whoever is about to take over, too.
    pub(super) fn leave(&self) -> Leave {
        if self.is_under_way() { Leave::HandOver } else { Leave::Close }
    }

    /// Whether somebody has the sockets, and is about to take over or has done so.
    pub(super) fn is_under_way(&self) -> bool {
        self.offer.as_ref().is_some_and(|(offer, _)| offer.is_given())
    }

    /// Resolves when nobody is about to take over any more, or had [the time](TO_BE_READY) to get ready.
    pub(super) async fn given_up(&self) {
        let Some((offer, _)) = &self.offer else { return };
        tracing::info!("waiting for the gateway that is about to take over");
        if timeout(TO_BE_READY, offer.is_taken_back()).await.is_err() {
            tracing::warn!(
                "the gateway that is about to take over is not ready yet: whoever comes waits for it"
            );
        }
    }
}
