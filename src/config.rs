//! The config file: one struct per section, a default for every key, and every fault reported at once.
//!
//! The file is YAML. The `common` section is the one of the Go system that this gateway replaces, and
//! means what it meant there; everything new has a section of its own. An empty file is a good one.

mod access_log;
mod common;
mod fault;
mod gateway;
mod keys;
mod limits;
mod lines;
mod log;
mod meaning;
mod networks;
mod nsq;
mod reader;
mod registry;
mod reload;
mod running;
mod timeouts;
mod tls;

use std::path::{Path, PathBuf};
use std::{fs, io};

pub use access_log::{AccessLog, Field, Format, Part, Template};
pub use common::{Common, Endpoint, ServerAddr};
pub use fault::{Fault, Faults};
pub use gateway::{Balance, Gateway, Ids, RetryBudget};
pub use keys::{Change, FIXED};
pub use limits::Limits;
pub use log::Log;
pub use nsq::{Embedded, EmbeddedListen, Nsq};
pub use registry::{Ejection, Probe, Registry};
pub use reload::Reload;
pub use running::{Master, Running};
pub use timeouts::Timeouts;
pub use tls::Tls;

use serde::Serialize;

use reader::Reader;

/// Where the binaries look when no file is named.
pub const DEFAULT_PATH: &str = "conf/config.yaml";

/// Longest file that is read, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;

/// The whole config, validated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Shown in logs and by the sample dataserver. Default `nsq-gateway`.
    pub name: String,
    /// What the Go system's config file holds.
    pub common: Common,
    /// Where requests come in, and how they are spread.
    pub gateway: Gateway,
    /// How long a dataserver lives without a heartbeat.
    pub registry: Registry,
    /// How heartbeats are read.
    pub nsq: Nsq,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How much of anything there may be.
    pub limits: Limits,
    /// What is written, and where.
    pub log: Log,
    /// How a change of this file is noticed.
    pub reload: Reload,
}

impl Config {
    /// The file that is to be read: the one named on the command line, or the default one if there is that.
    pub fn file(named: Option<&Path>) -> Option<&Path> {
        let default = Path::new(DEFAULT_PATH);
        named.or_else(|| default.exists().then_some(default))
    }

    /// Reads and validates a file.
    ///
    /// # Errors
    /// Every fault in it; a file that cannot be read is one fault.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        Self::load_with(path, |_, _| {})
    }

    /// As [`Config::load`]. The files that it names for a gateway must be good as well.
    ///
    /// # Errors
    /// As [`Config::load`], with every fault of those files.
    pub fn load_for_gateway(path: &Path) -> Result<Self, Faults> {
        Self::load_with(path, Self::check_files)
    }

    /// As [`Config::load_for_gateway`], while a gateway runs with another one, and what of it could be read though there are
    /// faults. An empty file is a good one at the start; here somebody is just about to write it, or has lost what was in it,
    /// unless the defaults hold already.
    pub fn load_again(path: &Path, running: &Self) -> (Self, Result<(), Faults>) {
        let says_nothing = |yaml: &str| yaml.trim().is_empty() && *running != Self::default();
        let yaml = match read_file(path) {
            Ok(yaml) if says_nothing(&yaml) => Err(Faults::one("", "is empty".to_owned())),
            read => read,
        };
        let yaml = match yaml {
            Ok(yaml) => yaml,
            Err(faults) => return (Self::default(), Err(faults)),
        };
        let (config, mut faults) = Self::parse(&yaml);
        config.check_files(&mut faults);
        (config, Faults::none_or(faults, &yaml))
    }

    /// The files that it names and whose content must be good.
    pub fn files(&self) -> Vec<PathBuf> {
        let tls = self.gateway.tls.iter().flat_map(|tls| [&tls.cert, &tls.key]);
        self.nsq.heartbeat_key_file.iter().chain(tls).cloned().collect()
    }

    /// As [`Config::load_for_gateway`], for a dataserver: it need not be able to read the gateway's private key.
    ///
    /// # Errors
    /// As [`Config::load_for_gateway`].
    pub fn load_for_dataserver(path: &Path) -> Result<Self, Faults> {
        Self::load_with(path, |config, faults| config.nsq.check_files(faults))
    }

    /// Where the gateway with this config file listens, for whoever asks how it is, and what is wrong with what says so. A
    /// gateway that runs goes on with the config that it has, so a key that cannot be read is taken to be left out, and faults
    /// of other keys do not matter.
    pub fn load_listeners(path: &Path) -> (Gateway, Result<(), Faults>) {
        const KEYS: [&str; 4] =
            ["gateway.listen", "gateway.admin_listen", "gateway.tls", "gateway.proxy_protocol"];
        let yaml = match read_file(path) {
            Ok(yaml) => yaml,
            Err(faults) => return (Self::default().gateway, Err(faults)),
        };
        let (config, mut faults) = Self::parse(&yaml);
        faults.retain(|fault| fault.path.is_empty() || KEYS.iter().any(|key| fault.path.starts_with(key)));
        (config.gateway, Faults::none_or(faults, &yaml))
    }

    fn load_with(path: &Path, check: impl Fn(&Self, &mut Vec<Fault>)) -> Result<Self, Faults> {
        let yaml = read_file(path)?;
        let (config, mut faults) = Self::parse(&yaml);
        check(&config, &mut faults);
        Faults::none_or(faults, &yaml).map(|()| config)
    }

    fn check_files(&self, faults: &mut Vec<Fault>) {
        if let Some(tls) = &self.gateway.tls {
            tls.check(faults);
        }
        self.registry.check_snapshot(faults);
        self.log.access.check(faults);
        self.nsq.check_files(faults);
    }

    fn parse(yaml: &str) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let config = Self::read(Reader::root(yaml, &mut faults));
        config.check(&mut faults);
        (config, faults)
    }

    fn read(mut file: Reader<'_>) -> Self {
        let config = Self {
            name: file.value("name", "nsq-gateway".to_owned()),
            common: Common::read(file.section("common")),
            gateway: Gateway::read(file.section("gateway")),
            registry: Registry::read(file.section("registry")),
            nsq: Nsq::read(file.section("nsq")),
            timeouts: Timeouts::read(file.section("timeouts")),
            limits: Limits::read(file.section("limits")),
            log: Log::read(file.section("log")),
            reload: Reload::read(file.section("reload")),
        };
        file.finish();
        config
    }

    /// What becomes of a request whose `X-Request-Id` is missing or no good. A line of an access log should have one, by
    /// which what a dataserver logs can be found.
    pub fn request_ids(&self) -> Ids {
        let unsaid = if self.log.access.to.is_some() { Ids::Make } else { Ids::Keep };
        self.gateway.request_id.unwrap_or(unsaid)
    }

    /// Whether this config asks for the NSQ that runs inside the gateway.
    pub fn runs_embedded_nsq(&self) -> bool {
        match self.nsq.embedded {
            Embedded::Auto => self.common.nsqd.is_empty() && self.common.nsqlookupd.is_empty(),
            Embedded::On => true,
            Embedded::Off => false,
        }
    }
}

fn read_file(path: &Path) -> Result<String, Faults> {
    let unreadable = |error: io::Error| Faults::one("", format!("cannot be read: {error}"));
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
        return Err(Faults::one("", format!("is larger than {MAX_FILE} bytes")));
    }
    fs::read_to_string(path).map_err(unreadable)
}

impl std::str::FromStr for Config {
    type Err = Faults;

    /// Reads and validates YAML.
    fn from_str(yaml: &str) -> Result<Self, Faults> {
        let (config, faults) = Self::parse(yaml);
        Faults::none_or(faults, yaml).map(|()| config)
    }
}

impl Config {
    /// What no section can see by itself.
    fn check(&self, faults: &mut Vec<Fault>) {
        if self.gateway.admin_listen == Some(self.gateway.listen) && self.gateway.listen.port() != 0 {
            faults.push(Fault::new("gateway.admin_listen", "is the same as gateway.listen".to_owned()));
        }
        if self.nsq.embedded == Embedded::Off
            && self.common.nsqd.is_empty()
            && self.common.nsqlookupd.is_empty()
        {
            let message =
                "false, but neither common.nsqd nor common.nsqlookupd says where heartbeats come from";
            faults.push(Fault::new("nsq.embedded", message.to_owned()));
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        // An empty file has no faults; a test keeps it so.
        let mut faults = Vec::new();
        Self::read(Reader::root("", &mut faults))
    }
}

#[cfg(test)]
mod tests;
