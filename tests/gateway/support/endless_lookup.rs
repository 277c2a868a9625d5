//! A name that is looked up for ever.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use tempfile::TempDir;

use super::Process;

/// A name without a dot glibc looks up in the file that `HOSTALIASES` names, before it asks anybody. Here that is a pipe in
/// which nothing ever comes.
pub struct EndlessLookup {
    pipe: PathBuf,
    _dir: TempDir,
}

impl EndlessLookup {
    /// The name.
    pub const NAME: &str = "looked-up-for-ever";

    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("aliases");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self { pipe, _dir: dir }
    }

    /// For this command it is so.
    pub fn with(&self, command: &mut Command) {
        command.env("HOSTALIASES", &self.pipe);
    }

    /// The other end of the pipe, if somebody looks the name up: that lasts until this is dropped.
    pub fn begun(&self) -> Option<File> {
        // Without a reader it cannot be opened.
        rustix::fs::open(&self.pipe, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok().map(File::from)
    }

    /// Whether names are looked up like that here.
    pub fn tried() -> Result<(), String> {
        let lookup = Self::new();
        let mut command = Command::new("getent");
        lookup.with(command.args(["ahosts", Self::NAME]));
        let mut asks = Process::start(&mut command);
        while asks.is_running() {
            if lookup.begun().is_some() {
                return Ok(());
            }
            super::pause(std::time::Duration::from_millis(5));
        }
        Err("names are not looked up in the file that HOSTALIASES names".to_owned())
    }
}
