//! Lines of a log on their way to a file, a pipe or a terminal. Whoever has one never waits.
//!
//! A line goes into memory, and a [`Writer`] on a thread of its own takes it from there. What finds no room, because the
//! other end is slow or has stopped, and what cannot be written, because the disk is full or nobody is there, is lost
//! and counted.

mod output;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::Instant;

pub use output::Destination;

use output::Output;

/// How often a writer with nothing to write looks after its file.
const LOOK: Duration = Duration::from_secs(1);

/// How often it says that lines are lost while that goes on. Once it is over, that is said at once.
const TELL: Duration = Duration::from_secs(10);

/// Memory that an empty queue keeps.
const KEPT_BYTES: usize = 64 * 1024;

/// How lines wait.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bytes that may wait in one queue. As many more may be in the writer's hands.
    pub most_bytes: usize,
    /// How long the writer rests after it wrote, unless a queue is half full: a busy log then costs a write a batch, and
    /// not a wake-up a line.
    pub rest: Duration,
}

/// What the owner of a log should know of it.
#[derive(Debug)]
pub enum Notice {
    /// So many lines were lost, and now lines come through again.
    Lost(u64),
    /// Lines cannot be written, until the next [`Lost`](Self::Lost).
    Failing(io::Error),
}

/// Where lines go in: one queue, which any thread may add to. [`queue`](Self::queue) makes another, for a thread that
/// should not meet the others.
#[derive(Clone)]
pub struct Lines {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

/// Where lines go out.
pub struct Writer {
    output: Output,
    shared: Arc<Shared>,
    /// What is being written.
    batch: Vec<u8>,
    /// Lines cannot be written just now.
    failing: bool,
    /// How many were lost when it last looked.
    seen: u64,
    /// How many lost lines the owner was told of, and when.
    told: (u64, Instant),
}

/// How many lines of a log were lost so far.
#[derive(Clone)]
pub struct Lost(Arc<Shared>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<u8>>,
}

struct Shared {
    settings: Settings,
    queues: Mutex<Vec<Arc<Queue>>>,
    lost: AtomicU64,
    reopen: AtomicBool,
    /// The writer's thread, and whether it waits to be woken by the next line.
    writer: OnceLock<Thread>,
    asleep: AtomicBool,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Flushes {
    asked: u64,
    done: u64,
}

/// A queue, and a writer that is still to be run.
///
/// # Errors
/// When the destination cannot be opened.
pub fn to(destination: &Destination, settings: Settings) -> io::Result<(Lines, Writer)> {
    Ok(over(Output::open(destination)?, settings))
}

fn over(output: Output, settings: Settings) -> (Lines, Writer) {
    let shared = Arc::new(Shared {
        settings,
        queues: Mutex::default(),
        lost: AtomicU64::new(0),
        reopen: AtomicBool::new(false),
        writer: OnceLock::new(),
        asleep: AtomicBool::new(false),
        flushes: Mutex::default(),
        flushed: Condvar::new(),
    });
    let lines = Lines::new(shared.clone());
    let told = (0, Instant::now());
    (lines, Writer { output, shared, batch: Vec::new(), failing: false, seen: 0, told })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    fn new(shared: Arc<Shared>) -> Self {
        let queue = Arc::<Queue>::default();
        lock(&shared.queues).push(queue.clone());
        Self { queue, shared }
    }

    /// Another queue to the same writer.
    #[must_use]
    pub fn queue(&self) -> Self {
        Self::new(self.shared.clone())
    }

    /// Adds a line, which ends with a line feed. It is lost if there is no room, but for what the writer's own thread has
    /// to tell.
    pub fn push(&self, line: &[u8]) {
        let Shared { settings: Settings { most_bytes, .. }, lost, asleep, .. } = &*self.shared;
        let mut waiting = lock(&self.queue.waiting);
        let (before, after) = (waiting.len(), waiting.len() + line.len());
        if after > *most_bytes && !self.shared.is_writer() {
            lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.extend_from_slice(line);
        drop(waiting);
        let half = most_bytes / 2;
        // A writer that goes to sleep says so before it looks at the queue for the last time.
        if asleep.load(Ordering::Relaxed) || (before < half && after >= half) {
            self.shared.wake();
        }
    }

    /// Has the file opened again, if it is one.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
        self.shared.wake();
    }

    /// Waits until what was pushed so far is written or lost, and no longer than `limit`. Returns whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let mut flushes = lock(&self.shared.flushes);
        flushes.asked += 1;
        let mine = flushes.asked;
        self.shared.wake();
        let waited = self.shared.flushed.wait_timeout_while(flushes, limit, |flushes| flushes.done < mine);
        let (flushes, _) = waited.unwrap_or_else(PoisonError::into_inner);
        flushes.done >= mine
    }

    /// How many lines were lost, of all queues.
    pub fn lost(&self) -> Lost {
        Lost(self.shared.clone())
    }
}

impl Drop for Lines {
    /// The writer ends when there is nobody left to write for.
    fn drop(&mut self) {
        self.shared.wake();
    }
}

/// Each write is a line. What would break it into two is escaped: whose text is in it must not make lines of its own.
impl io::Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if !text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            self.push(line);
            return Ok(line.len());
        }
        let mut escaped = Vec::with_capacity(line.len() + 16);
        for byte in text {
            match byte {
                b'\n' => escaped.extend_from_slice(b"\\n"),
                b'\r' => escaped.extend_from_slice(b"\\r"),
                byte => escaped.push(*byte),
            }
        }
        escaped.push(b'\n');
        self.push(&escaped);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lost {
    /// The number.
    pub fn count(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    fn is_writer(&self) -> bool {
        self.writer.get().is_some_and(|writer| writer.id() == thread::current().id())
    }

    fn queues_in_use(&self) -> Vec<Arc<Queue>> {
        let mut queues = lock(&self.queues);
        // Nobody but this list has it: nobody will add to it.
        queues.retain(|queue| Arc::strong_count(queue) > 1 || !lock(&queue.waiting).is_empty());
        queues.clone()
    }

    fn is_something_to_do(&self) -> bool {
        let flushes = *lock(&self.flushes);
        flushes.asked > flushes.done
            || self.reopen.load(Ordering::Relaxed)
            || lock(&self.queues).iter().any(|queue| !lock(&queue.waiting).is_empty())
    }
}

impl Writer {
    /// Writes for as long as there are [`Lines`]. May block at any point; whatever `tell` pushes is written as well.
    pub fn run(mut self, tell: impl Fn(Notice)) {
        let _ = self.shared.writer.set(thread::current());
        loop {
            let Flushes { asked, done } = *lock(&self.shared.flushes);
            if self.shared.reopen.swap(false, Ordering::Relaxed) {
                self.output.reopen();
            }
            let wrote = self.write_what_waits(&tell);
            if self.tell_of_losses(asked > done, &tell) {
                self.write_what_waits(&tell);
            }
            lock(&self.shared.flushes).done = asked;
            self.shared.flushed.notify_all();
            if lock(&self.shared.queues).is_empty() {
                return;
            }
            self.wait(wrote);
        }
    }

    /// Returns whether there was anything.
    fn write_what_waits(&mut self, tell: &impl Fn(Notice)) -> bool {
        let mut wrote = false;
        for queue in self.shared.queues_in_use() {
            std::mem::swap(&mut *lock(&queue.waiting), &mut self.batch);
            if !self.batch.is_empty() {
                wrote = true;
                self.write_batch(tell);
            }
            self.batch.clear();
            self.batch.shrink_to(KEPT_BYTES);
        }
        wrote
    }

    fn write_batch(&mut self, tell: &impl Fn(Notice)) {
        match self.output.write(&self.batch) {
            Ok(()) => self.failing = false,
            Err(failed) => {
                self.shared.lost.fetch_add(failed.lines, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tell(Notice::Failing(failed.error));
                }
            }
        }
    }

    /// Returns whether there was something to tell.
    fn tell_of_losses(&mut self, is_flush: bool, tell: &impl Fn(Notice)) -> bool {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let is_over = std::mem::replace(&mut self.seen, lost) == lost;
        let (told, at) = self.told;
        if self.failing || lost == told || !(is_over || is_flush || at.elapsed() >= TELL) {
            return false;
        }
        self.told = (lost, Instant::now());
        tell(Notice::Lost(lost - told));
        true
    }

    fn wait(&self, wrote: bool) {
        if wrote && !self.shared.settings.rest.is_zero() {
            thread::park_timeout(self.shared.settings.rest);
        }
        self.shared.asleep.store(true, Ordering::Relaxed);
        if !self.shared.is_something_to_do() {
            thread::park_timeout(LOOK);
        }
        self.shared.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
