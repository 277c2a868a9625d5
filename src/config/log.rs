//! Section `log`: what is written to stderr.

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::reader::Reader;

/// What is written to stderr.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Log {
    /// Which events are logged, in the language of `RUST_LOG`, which counts instead where it is set. Default `info`.
    pub filter: String,
}

impl Log {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let default = "info";
        let mut filter = section.value("filter", default.to_owned());
        if let Err(error) = EnvFilter::try_new(&filter) {
            section.fault("filter", format!("{filter:?} is not a filter: {error}"));
            default.clone_into(&mut filter);
        }
        section.finish();
        Self { filter }
    }
}
