//! Files that somebody else changes: written in place, renamed over, or behind a link that turns elsewhere.
//!
//! They are read again and again, and what they hold is compared. That needs nothing of the file system, which may be
//! one that tells nobody (of a network, of a container) or whose times are coarse; it finds whatever stands at the end
//! of the path, however that came there; and a file that was only touched has not changed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::small_file;

/// For so long the files have to hold the same before they count as changed: who writes a file may not be done.
const SETTLED: Duration = Duration::from_millis(100);

/// So often they are looked at, in that hope.
const LOOKS: usize = 20;

/// Some files, and what they held at the last look. A cheap handle.
#[derive(Debug, Clone)]
pub struct Watched {
    paths: Arc<[PathBuf]>,
    most_bytes: u64,
    /// What they held, or why they could not be read, as a hash: nothing is kept only to be compared.
    seen: Arc<AtomicU64>,
}

/// What a file holds, or what is wrong with it.
pub type Text = Result<Vec<u8>, String>;

impl Watched {
    /// Reads these files, none of which should have more than so many bytes.
    pub fn read(paths: impl Into<Arc<[PathBuf]>>, most_bytes: u64) -> (Self, Vec<Text>) {
        let watched = Self { paths: paths.into(), most_bytes, seen: Arc::default() };
        let texts = watched.read_again();
        (watched, texts)
    }

    /// Reads them once more.
    pub fn read_again(&self) -> Vec<Text> {
        let texts: Vec<_> = self.paths.iter().map(|path| small_file::read(path, self.most_bytes)).collect();
        self.seen.store(hash(&texts), Ordering::Relaxed);
        texts
    }

    /// Looks every `interval`, and resolves when they hold something else than at the last look.
    pub async fn changed(&self, interval: Duration) {
        let before = self.seen.load(Ordering::Relaxed);
        loop {
            sleep(interval).await;
            let mut now = self.look().await;
            if now == before {
                continue;
            }
            for _ in 0..LOOKS {
                sleep(interval.min(SETTLED)).await;
                let last = std::mem::replace(&mut now, self.look().await);
                if now == last {
                    break;
                }
            }
            self.seen.store(now, Ordering::Relaxed);
            if now != before {
                return;
            }
        }
    }

    async fn look(&self) -> u64 {
        let (paths, most) = (self.paths.clone(), self.most_bytes);
        // A file system may take its time.
        let read = spawn_blocking(move || {
            let texts: Vec<_> = paths.iter().map(|path| small_file::read(path, most)).collect();
            hash(&texts)
        });
        read.await.unwrap_or_else(|_| self.seen.load(Ordering::Relaxed))
    }
}

fn hash(texts: &[Text]) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    hasher.finish()
}
