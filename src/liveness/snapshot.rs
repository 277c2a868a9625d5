//! The live set on disk, so that a gateway that starts again knows whom to ask, also when no heartbeat can be heard.
//!
//! Nobody gets a request for being in the file: each has to pass a probe first, and then has a TTL to be heard. A
//! file that is old, damaged or not there changes nothing: the gateway starts with an empty set.

mod document;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::addr::Dialable;
use crate::config;
use crate::metrics::Metrics;
use crate::registry::{Member, Registry};
use crate::small_file;

use document::{Document, MEMBER_BYTES};

/// Keeps the set in a file.
pub struct Snapshot {
    registry: Registry,
    metrics: Metrics,
    dialable: Dialable,
    path: PathBuf,
    interval: Duration,
    /// An older one is not read.
    max_age: Duration,
    /// Nor is a larger one.
    max_bytes: u64,
}

impl Snapshot {
    /// `None` if the set is not to be kept.
    pub fn new(
        registry: Registry,
        metrics: Metrics,
        settings: &config::Registry,
        dialable: Dialable,
    ) -> Option<Self> {
        let capacity = u64::try_from(settings.capacity).unwrap_or(u64::MAX);
        Some(Self {
            registry,
            metrics,
            dialable,
            path: settings.snapshot.clone()?,
            interval: settings.snapshot_interval,
            max_age: settings.snapshot_max_age(),
            max_bytes: capacity.saturating_add(1).saturating_mul(MEMBER_BYTES),
        })
    }

    /// Takes the set in that the gateway before this one has left, if there is one.
    pub async fn restore(&self) {
        let (path, max_bytes) = (self.path.clone(), self.max_bytes);
        let read = spawn_blocking(move || read(&path, max_bytes)).await;
        let read = read.unwrap_or_else(|panicked| Err(panicked.to_string()));
        let path = self.path.display();
        let (members, age) = match read.and_then(|read| self.useful(read)) {
            Ok(Some(useful)) => useful,
            Ok(None) => return tracing::info!(%path, "there is no snapshot of the live set yet"),
            Err(why) => return tracing::warn!(%path, "the snapshot of the live set {why}; it is ignored"),
        };
        let (now, known) = (Instant::now(), members.len());
        let restored = members.iter().filter(|member| self.restore_one(member, now)).count();
        tracing::info!(
            %path,
            restored,
            refused = known - restored,
            age_seconds = age.as_secs_f64(),
            "the live set is restored from its snapshot: each dataserver has to pass a probe"
        );
    }

    /// Those in the file and how old it is, if it is not too old.
    fn useful(&self, read: Option<Document>) -> Result<Option<(Vec<Member>, Duration)>, String> {
        let Some(document) = read else { return Ok(None) };
        let age = document.age(SystemTime::now(), self.max_age).map_err(|why| why.to_string())?;
        Ok(Some((document.members, age)))
    }

    fn restore_one(&self, member: &Member, now: Instant) -> bool {
        // The config may have changed since. Names are seen through when they are resolved.
        let target = member.addr.socket_addr();
        target.is_none_or(|target| self.dialable.permits(target))
            && self.registry.restore(member.clone(), now)
    }

    /// Writes the set every interval until `stop`, and once more then.
    pub async fn keep(self, stop: CancellationToken) {
        let mut failing = None;
        while stop.run_until_cancelled(tokio::time::sleep(self.interval)).await.is_some() {
            self.write(&mut failing).await;
        }
        self.write(&mut failing).await;
    }

    /// Says so when it begins to fail, and why when that changes: an interval that fails as the last one did says
    /// nothing new.
    async fn write(&self, failing: &mut Option<String>) {
        let (registry, path) = (self.registry.clone(), self.path.clone());
        // With the set copied there as well: 100,000 dataservers take their time.
        let written = spawn_blocking(move || {
            let document =
                Document { written_at: SystemTime::now(), members: registry.members(Instant::now()) };
            write(&path, &document.encode()?)
        });
        let written = written.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        self.metrics.snapshot_written(written.is_ok());
        let (path, now) = (self.path.display(), written.err().map(|error| error.to_string()));
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
