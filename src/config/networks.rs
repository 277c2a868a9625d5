//! Networks as lists in the file.

use serde::{Serialize, Serializer};
use serde_yaml::Value;

use super::reader::{FromYaml, Reader};
use crate::addr::{Network, Networks};

pub(super) fn read(section: &mut Reader<'_>, key: &str) -> Option<Networks> {
    section.list(key).map(Networks::new)
}

impl FromYaml for Network {
    const EXPECTED: &'static str = "loopback, private, an IP address or a network such as 10.0.0.0/8";

    fn from_yaml(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(ToString::to_string))
    }
}

/// For a key that `false` turns off.
#[expect(clippy::ref_option, reason = "serde calls it so")]
pub(super) fn or_false<S: Serializer>(networks: &Option<Networks>, serializer: S) -> Result<S::Ok, S::Error> {
    match networks {
        Some(networks) => networks.serialize(serializer),
        None => serializer.serialize_bool(false),
    }
}
