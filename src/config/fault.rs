//! What is wrong with a config, and where.

use std::fmt;

use super::lines::line_of;
use crate::tls;

/// For each the file is read once more.
const LOCATED: usize = 100;

/// One fault: a key's path and a sentence about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Such as `gateway.listen`; empty when the fault is in the file as a whole.
    pub path: String,
    /// Such as `"abc" is not HOST:PORT`.
    pub message: String,
    /// Where in the file, counted from 1; `None` if there is no such place, or too many were asked for.
    pub line: Option<usize>,
}

impl Fault {
    pub(super) fn new(path: impl Into<String>, message: String) -> Self {
        Self { path: path.into(), message, line: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// All the faults of one config, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn one(path: &str, message: String) -> Self {
        Self(vec![Fault::new(path, message)])
    }

    /// These, if there are any.
    pub(super) fn some(faults: Vec<Fault>) -> Option<Self> {
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// One that is not in what the file says.
    pub fn of_file(error: &impl fmt::Display) -> Self {
        Self::one("", format!("cannot be read: {error}"))
    }

    /// Those of a certificate and its key.
    pub fn of_tls(faults: Vec<tls::Fault>) -> Self {
        let fault = |fault: tls::Fault| Fault::new(format!("gateway.tls.{}", fault.file), fault.message);
        Self(faults.into_iter().map(fault).collect())
    }

    /// Those of this file, if there are any.
    pub(super) fn none_or(mut faults: Vec<Fault>, yaml: &str) -> Result<(), Self> {
        if faults.is_empty() {
            return Ok(());
        }
        for fault in faults.iter_mut().take(LOCATED) {
            fault.line = line_of(yaml, &fault.path);
        }
        Err(Self(faults))
    }

    /// Each of them, in the order of the file's sections.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    /// One line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
