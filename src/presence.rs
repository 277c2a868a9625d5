//! What a dataserver says of itself besides its address: which process it is, and whether it comes or goes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Whether a dataserver takes requests. Its text is what a heartbeat's `state` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// It serves.
    #[default]
    Up,
    /// It still serves, and is about to stop: it should get no more requests if there is anybody else.
    Draining,
    /// It serves no more.
    Down,
}

impl Phase {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

impl FromStr for Phase {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "up" => Ok(Self::Up),
            "draining" => Ok(Self::Draining),
            "down" => Ok(Self::Down),
            _ => Err("is neither up nor draining nor down"),
        }
    }
}

/// One life of a dataserver, from its start to its end, and how often it has spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    /// One for each start of the process.
    pub id: ProcessId,
    /// Grows with each heartbeat of this process.
    pub seq: u64,
}

/// What tells a process from the one before it at the same address: 1 to 64 printable ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProcessId(Arc<str>);

impl ProcessId {
    /// The longest, in bytes.
    pub const MAX_LEN: usize = 64;

    /// One that no other process has.
    pub fn random() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()).into())
    }

    /// As it stands in a heartbeat.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProcessId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err("is not 1 to 64 printable ASCII characters")
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
