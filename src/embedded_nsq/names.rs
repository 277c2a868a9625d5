//! The rule for topic and channel names.

use std::fmt;

/// A checked topic or channel name: 1 to 64 characters of `^[.a-zA-Z0-9_-]+(#ephemeral)?$`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a>(&'a str);

const EPHEMERAL: &str = "#ephemeral";
const MAX_BYTES: usize = 64;

impl<'a> Name<'a> {
    pub(super) fn parse(raw: &'a [u8]) -> Option<Self> {
        if raw.len() > MAX_BYTES {
            return None;
        }
        let name = std::str::from_utf8(raw).ok()?;
        let stem = name.strip_suffix(EPHEMERAL).unwrap_or(name);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (!stem.is_empty() && stem.bytes().all(allowed)).then_some(Self(name))
    }

    pub(super) fn as_str(self) -> &'a str {
        self.0
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Whether what carries this name vanishes with its last consumer.
pub(super) fn is_ephemeral(name: &str) -> bool {
    name.ends_with(EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_nsqd_accepts() {
        let longest = "x".repeat(64);
        let ephemeral = format!("{}#ephemeral", "x".repeat(54));
        for name in ["a", "data_server_addr", ".-_9Z", "t#ephemeral", &longest, &ephemeral] {
            assert!(Name::parse(name.as_bytes()).is_some(), "{name}");
        }
    }

    #[test]
    fn refuses_what_nsqd_refuses() {
        let too_long = "x".repeat(65);
        let too_long_ephemeral = format!("{}#ephemeral", "x".repeat(55));
        for name in [
            "",
            "#ephemeral",
            "a b",
            "a#b",
            "a#ephemeral#ephemeral",
            "ä",
            "a\n",
            "a/b",
            "*",
            &too_long,
            &too_long_ephemeral,
        ] {
            assert!(Name::parse(name.as_bytes()).is_none(), "{name}");
        }
        assert!(Name::parse(b"a\xff").is_none());
    }

    #[test]
    fn knows_the_ephemeral_ones() {
        assert!(is_ephemeral("a#ephemeral"));
        assert!(!is_ephemeral("ephemeral"));
    }
}
