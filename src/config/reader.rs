//! Reading a YAML mapping key by key, so that one bad value does not hide the next.

use std::net::SocketAddr;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::Fault;

/// One mapping of the file. Keys are taken out as they are read; [`finish`](Self::finish) reports the rest.
pub(super) struct Reader<'a> {
    path: String,
    keys: Mapping,
    faults: &'a mut Vec<Fault>,
}

/// A value that a key can have.
pub(super) trait FromYaml: Sized {
    /// Completes "… is not".
    const EXPECTED: &'static str;

    fn from_yaml(value: &Value) -> Option<Self>;
}

impl<'a> Reader<'a> {
    /// The whole file. YAML that cannot be read is a fault, and then everything has its default.
    pub(super) fn root(yaml: &str, faults: &'a mut Vec<Fault>) -> Self {
        let value = serde_yaml::from_str(yaml).unwrap_or_else(|error| {
            faults.push(Fault::new("", format!("is not YAML: {error}")));
            Value::Null
        });
        Self::new(String::new(), value, faults)
    }

    fn new(path: String, value: Value, faults: &'a mut Vec<Fault>) -> Self {
        let keys = match value {
            Value::Mapping(keys) => keys,
            Value::Null => Mapping::new(),
            other => {
                faults.push(Fault::new(path.clone(), format!("{} is not a mapping", show(&other))));
                Mapping::new()
            }
        };
        Self { path, keys, faults }
    }

    /// A key whose value is a mapping of its own.
    pub(super) fn section(&mut self, key: &str) -> Reader<'_> {
        let value = self.take(key).unwrap_or(Value::Null);
        Reader::new(self.path_of(key), value, self.faults)
    }

    /// A key that may be missing or null.
    pub(super) fn value<T: FromYaml>(&mut self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A key that may be missing or null, and then has no value.
    pub(super) fn optional<T: FromYaml>(&mut self, key: &str) -> Option<T> {
        let value = self.take(key)?;
        let parsed = T::from_yaml(&value);
        if parsed.is_none() {
            self.fault(key, format!("{} is not {}", show(&value), T::EXPECTED));
        }
        parsed
    }

    /// A key that may be missing or null, and whose value lies between two others.
    pub(super) fn within<T: FromYaml + PartialOrd + Copy>(
        &mut self,
        key: &str,
        default: T,
        least: T,
        most: T,
    ) -> T
    where
        Shown<T>: std::fmt::Display,
    {
        let value = self.value(key, default);
        if value < least || value > most {
            let (value, least, most) = (Shown(value), Shown(least), Shown(most));
            self.fault(key, format!("{value} is not between {least} and {most}"));
            return default;
        }
        value
    }

    /// A key that is true or false. Whatever else its value is stays there to be read.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let flag = self.keys.get(key)?.as_bool()?;
        self.keys.remove(key);
        Some(flag)
    }

    /// A key whose value is one or a list of them. Each that is bad is named with its place.
    pub(super) fn list<T: FromYaml>(&mut self, key: &str) -> Option<Vec<T>> {
        let values = match self.take(key)? {
            Value::Sequence(values) => values,
            single => vec![single],
        };
        let mut parsed = Vec::with_capacity(values.len());
        for (n, value) in values.iter().enumerate() {
            match T::from_yaml(value) {
                Some(value) => parsed.push(value),
                None => self.fault(&format!("{key}[{n}]"), format!("{} is not {}", show(value), T::EXPECTED)),
            }
        }
        Some(parsed)
    }

    /// A key whose value is one mapping or a list of them; what is none is not `expected`, and is left out.
    pub(super) fn sections<T>(
        &mut self,
        key: &str,
        expected: &str,
        mut read: impl FnMut(Reader<'_>) -> T,
    ) -> Vec<T> {
        let path = self.path_of(key);
        let placed: Vec<_> = match self.take(key) {
            None => Vec::new(),
            Some(Value::Sequence(values)) => {
                values.into_iter().enumerate().map(|(n, value)| (format!("{path}[{n}]"), value)).collect()
            }
            Some(value) => vec![(path, value)],
        };
        let mut sections = Vec::with_capacity(placed.len());
        for (path, value) in placed {
            if matches!(value, Value::Mapping(_) | Value::Null) {
                sections.push(read(Reader::new(path, value, self.faults)));
            } else {
                self.faults.push(Fault::new(path, format!("{} is not {expected}", show(&value))));
            }
        }
        sections
    }

    /// Reports a fault of a key.
    pub(super) fn fault(&mut self, key: &str, message: String) {
        self.faults.push(Fault::new(self.path_of(key), message));
    }

    /// Reports every key that nobody took.
    pub(super) fn finish(self) {
        for key in self.keys.keys() {
            let key = key.as_str().map_or_else(|| show(key), str::to_owned);
            let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
            self.faults.push(Fault::new(path, "is not a known key".to_owned()));
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key).filter(|value| !value.is_null())
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A value as the user wrote it, on one line and not too long.
fn show(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("{text:?}"),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Sequence(_) => "a list".to_owned(),
        other => serde_yaml::to_string(other).unwrap_or_default().trim().to_owned(),
    };
    if text.chars().count() > 80 { text.chars().take(79).chain(['…']).collect() } else { text }
}

/// How a value is written in a config file.
pub(super) struct Shown<T>(T);

impl std::fmt::Display for Shown<Duration> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl std::fmt::Display for Shown<usize> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Display for Shown<u16> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromYaml for String {
    const EXPECTED: &'static str = "text";

    fn from_yaml(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl FromYaml for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_yaml(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl FromYaml for usize {
    const EXPECTED: &'static str = "a whole number";

    fn from_yaml(value: &Value) -> Option<Self> {
        value.as_u64()?.try_into().ok()
    }
}

/// Numbers in quotes are taken as well, as the Go system's config library did.
impl FromYaml for u16 {
    const EXPECTED: &'static str = "a port";

    fn from_yaml(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64()?.try_into().ok(),
        }
    }
}

impl FromYaml for Duration {
    const EXPECTED: &'static str = "a duration such as 10s or 500ms";

    fn from_yaml(value: &Value) -> Option<Self> {
        humantime::parse_duration(value.as_str()?).ok()
    }
}

impl FromYaml for SocketAddr {
    const EXPECTED: &'static str = "HOST:PORT";

    fn from_yaml(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        match text.strip_prefix("localhost:") {
            Some(port) => Some(Self::from(([127, 0, 0, 1], port.parse().ok()?))),
            None => text.parse().ok(),
        }
    }
}
