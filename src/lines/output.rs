//! The other end: standard error, standard output, or a file that may be renamed away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::LOOK;

/// How long to wait where something should block and does not: a pipe that somebody else has set so.
const NOT_BLOCKING: Duration = Duration::from_millis(10);

/// Who may read a file that is made: it says who asked for what.
const MODE: u32 = 0o640;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The process's standard error.
    Stderr,
    /// Its standard output.
    Stdout,
    /// A file, which is added to, and made if it is not there. When it was renamed or removed, another is made.
    File(PathBuf),
}

/// As a config file has it.
impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stderr => serializer.serialize_str("stderr"),
            Self::Stdout => serializer.serialize_str("stdout"),
            Self::File(path) => path.serialize(serializer),
        }
    }
}

/// An open destination.
pub(super) struct Output {
    file: File,
    path: Option<PathBuf>,
    /// When the path was last followed.
    looked: Instant,
    /// The last line that is there was written in part.
    torn: bool,
}

/// What became of bytes that could not be written.
pub(super) struct Failed {
    pub(super) error: io::Error,
    /// The lines that are lost, whole or in part.
    pub(super) lines: u64,
}

impl Output {
    pub(super) fn open(destination: &Destination) -> io::Result<Self> {
        // Not through std's handles: whoever else writes there would wait for this thread.
        let (file, path) = match destination {
            Destination::Stderr => (io::stderr().as_fd().try_clone_to_owned()?.into(), None),
            Destination::Stdout => (io::stdout().as_fd().try_clone_to_owned()?.into(), None),
            Destination::File(path) => (open(path)?, Some(path.clone())),
        };
        Ok(Self::new(file, path))
    }

    pub(super) fn new(file: File, path: Option<PathBuf>) -> Self {
        let torn = path.as_deref().is_some_and(ends_within_a_line);
        Self { file, path, looked: Instant::now(), torn }
    }

    /// Opens the file again. If that does not work, the one that is open goes on.
    pub(super) fn reopen(&mut self) {
        if let Some(path) = &self.path
            && let Ok(file) = open(path)
        {
            self.torn = ends_within_a_line(path);
            self.file = file;
        }
    }

    /// Writes some lines, to where the path leads now.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if self.was_moved() {
                self.reopen();
            }
        }
        if self.torn {
            self.write_all(b"\n").map_err(|(error, _)| Failed { error, lines: count(lines) })?;
            self.torn = false;
        }
        self.write_all(lines).map_err(|(error, written)| {
            let (done, rest) = lines.split_at_checked(written).unwrap_or_default();
            self.torn = done.last().is_some_and(|last| *last != b'\n');
            Failed { error, lines: count(rest) }
        })
    }

    /// On an error tells how much was written before.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err((ErrorKind::WriteZero.into(), written)),
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::park_timeout(NOT_BLOCKING),
                Err(error) => return Err((error, written)),
            }
        }
        Ok(())
    }

    fn was_moved(&self) -> bool {
        let Some(path) = &self.path else { return false };
        match (fs::metadata(path), self.file.metadata()) {
            (Ok(there), Ok(open)) => (there.dev(), there.ino()) != (open.dev(), open.ino()),
            _ => true,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Asked before it is opened, which for a pipe would wait for a reader.
    if let Ok(there) = fs::metadata(path) {
        let kind = there.file_type();
        if kind.is_fifo() || kind.is_socket() {
            return Err(io::Error::other("it is not a file"));
        }
    }
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

/// Whether a full disk has left a part of a line at its end, of this process or of one before it.
fn ends_within_a_line(path: &Path) -> bool {
    let last = || {
        // Anything else may wait for somebody.
        if !fs::metadata(path)?.is_file() {
            return Ok([b'\n']);
        }
        let (mut file, mut last) = (File::open(path)?, [0]);
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        io::Result::Ok(last)
    };
    // One that is empty has no end, and one that may not be read is as good as any.
    last().is_ok_and(|last| last != [b'\n'])
}

fn count(lines: &[u8]) -> u64 {
    lines.split_inclusive(|byte| *byte == b'\n').count() as u64
}
