//! The live set on disk, so that a gateway that starts again knows whom to ask, also when no heartbeat can be heard.
//!
//! Nobody gets a request for being in the file: each has to pass a probe first, and then has a TTL to be heard. A
//! file that is old, damaged or not there changes nothing: the gateway starts with an empty set.

mod document;

use std::fs::{self, OpenOptions};
use std::future::pending;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::addr::{Addr, Dialable};
use crate::config::{self, Running};
use crate::metrics::Metrics;
use crate::registry::{Member, Registry, State};
use crate::small_file;

use document::{Document, MEMBER_BYTES};

/// Keeps the set in the file that the config names, if it names one.
pub struct Snapshot {
    registry: Registry,
    metrics: Metrics,
    config: Running,
    dialable: Dialable,
}

impl Snapshot {
    /// Of this registry; `dialable` is where the dataservers in a file may be.
    pub fn new(registry: Registry, metrics: Metrics, config: Running, dialable: Dialable) -> Self {
        Self { registry, metrics, config, dialable }
    }

    /// Takes the set in that the gateway before this one has left, if there is one.
    pub async fn restore(&self) {
        let config = self.config.now();
        let Some(path) = config.registry.snapshot.clone() else { return };
        let max_bytes = max_bytes(&config.registry);
        let read = spawn_blocking({
            let path = path.clone();
            move || read(&path, max_bytes)
        });
        let read = read.await.unwrap_or_else(|panicked| Err(panicked.to_string()));
        let (path, max_age) = (path.display(), config.registry.snapshot_max_age());
        let (members, age) = match read.and_then(|read| useful(read, max_age)) {
            Ok(Some(useful)) => useful,
            Ok(None) => return tracing::info!(%path, "there is no snapshot of the live set yet"),
            Err(why) => return tracing::warn!(%path, "the snapshot of the live set {why}; it is ignored"),
        };
        let (now, known) = (Instant::now(), members.len());
        let restored =
            members.iter().filter(|member| restore_one(&self.registry, &self.dialable, member, now)).count();
        tracing::info!(
            %path,
            restored,
            refused = known - restored,
            age_seconds = age.as_secs_f64(),
            "the live set is restored from its snapshot: each dataserver has to pass a probe"
        );
    }

    /// Writes the set every interval until `stop`, and once more then.
    pub async fn keep(mut self, stop: CancellationToken) {
        let (mut failing, mut written) = (None, Instant::now());
        while !stop.is_cancelled() {
            let registry = self.config.now().registry.clone();
            let due = async {
                match registry.snapshot {
                    Some(_) => sleep_until(written + registry.snapshot_interval).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                _ = self.config.changed() => {}
                () = due => {
                    self.write(&mut failing).await;
                    written = Instant::now();
                }
            }
        }
        self.write(&mut failing).await;
    }

    /// Says so when it begins to fail, and why when that changes: an interval that fails as the last one did says
    /// nothing new.
    async fn write(&self, failing: &mut Option<String>) {
        let Some(path) = self.config.now().registry.snapshot.clone() else { return };
        let (registry, to) = (self.registry.clone(), path.clone());
        // With the set copied there as well: 100,000 dataservers take their time.
        let written = spawn_blocking(move || write(&to, &encode(&registry)?));
        let written = written.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        self.metrics.snapshot_written(written.is_ok());
        let (path, now) = (path.display(), written.err().map(|error| error.to_string()));
        match &now {
            Some(error) if now != *failing => {
                tracing::warn!(%path, "the snapshot of the live set cannot be written: {error}");
            }
            None if failing.is_some() => {
                tracing::info!(%path, "the snapshot of the live set is written again");
            }
            _ => {}
        }
        *failing = now;
    }
}

/// Those in the file and how old it is, if it is not too old.
fn useful(read: Option<Document>, max_age: Duration) -> Result<Option<(Vec<Member>, Duration)>, String> {
    let Some(document) = read else { return Ok(None) };
    let age = document.age(SystemTime::now(), max_age).map_err(|why| why.to_string())?;
    Ok(Some((document.members, age)))
}

/// The most that a set takes.
pub fn max_bytes(settings: &config::Registry) -> u64 {
    let capacity = u64::try_from(settings.capacity).unwrap_or(u64::MAX);
    capacity.saturating_add(1).saturating_mul(MEMBER_BYTES)
}

/// The set, as it stands in the file.
///
/// # Errors
/// None that is known of.
pub fn encode(registry: &Registry) -> io::Result<Vec<u8>> {
    let document = Document { written_at: SystemTime::now(), members: registry.members(Instant::now()) };
    Ok(document.encode()?)
}

/// What became of a set that a running gateway has handed over.
#[derive(Debug, Default)]
pub struct TakenIn {
    /// Those that were taken. Each has to pass a probe.
    pub members: Vec<Addr>,
    /// How many were not: the config has changed since.
    pub refused: usize,
}

impl TakenIn {
    /// Whether one of them answers: it has passed its probe.
    pub fn is_answered(&self, registry: &Registry) -> bool {
        let now = Instant::now();
        let mut known = self.members.iter().filter_map(|addr| registry.get(addr, now));
        // One that drains meanwhile answers as well.
        known.any(|dataserver| dataserver.state != State::Suspect)
    }
}

/// Takes a set in that a running gateway has handed over, into a registry that knows nobody yet.
///
/// # Errors
/// Why it is no set.
pub fn take_in(set: &[u8], registry: &Registry, dialable: &Dialable) -> Result<TakenIn, String> {
    let document = Document::decode(set).map_err(|why| why.to_string())?;
    let (now, mut taken) = (Instant::now(), TakenIn::default());
    for member in document.members {
        if restore_one(registry, dialable, &member, now) {
            taken.members.push(member.addr);
        } else {
            taken.refused += 1;
        }
    }
    Ok(taken)
}

fn restore_one(registry: &Registry, dialable: &Dialable, member: &Member, now: Instant) -> bool {
    // The config may have changed since. Names are seen through when they are resolved.
    let target = member.addr.socket_addr();
    target.is_none_or(|target| dialable.permits(target)) && registry.restore(member.clone(), now)
}

/// Nothing if there is no file yet.
fn read(path: &Path, max_bytes: u64) -> Result<Option<Document>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = small_file::read(path, max_bytes)?;
    Document::decode(&bytes).map(Some).map_err(|why| why.to_string())
}

/// In one step, as far as anybody can see: a gateway that is killed meanwhile leaves the file as it was.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    // One that was killed may have left it. And what is made anew is no link to somewhere else.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let renamed =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary); // a full disk has no room for a half
    }
    renamed
}
