//! Who sent a heartbeat: HMAC-SHA256 over what it says, by a key that dataservers and gateways share.
//!
//! What is signed is a text of six lines, each with a line feed at its end, with the values as they stand in the
//! message; what is not said there is empty:
//!
//! ```text
//! addr=10.0.0.7:80
//! id=5e0c8f1a
//! seq=7
//! time=1767225600000
//! state=up
//! proto=http/1.1
//! ```

use std::fmt::Write;

use crate::key::{Key, TAG_LEN};

/// What is signed. None of the texts has a line feed in it, so that no two statements have the same text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement<'a> {
    pub(super) addr: &'a str,
    pub(super) id: &'a str,
    pub(super) seq: u64,
    pub(super) time: u64,
    pub(super) state: &'a str,
    pub(super) proto: &'a str,
}

impl Statement<'_> {
    fn text(&self) -> String {
        let Self { addr, id, seq, time, state, proto } = self;
        format!("addr={addr}\nid={id}\nseq={seq}\ntime={time}\nstate={state}\nproto={proto}\n")
    }

    /// The `sig` for it: 64 hexadecimal digits in lower case.
    pub(super) fn sign(&self, key: &Key) -> String {
        let mut sig = String::with_capacity(2 * TAG_LEN);
        for byte in key.sign(self.text().as_bytes()) {
            let _ = write!(sig, "{byte:02x}"); // a String takes everything
        }
        sig
    }
}

/// The signature of a heartbeat that came. Nobody has checked it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// When it was sent, by the clock of who signed: milliseconds since 1970.
    pub time: u64,
    text: String,
    tag: [u8; TAG_LEN],
}

impl Signature {
    /// `None` if `sig` cannot be one.
    pub(super) fn read(statement: &Statement<'_>, sig: &str) -> Option<Self> {
        Some(Self { time: statement.time, text: statement.text(), tag: parse(sig)? })
    }

    /// Whether it was made with this key.
    pub fn is_by(&self, key: &Key) -> bool {
        key.is_signature(self.text.as_bytes(), &self.tag)
    }
}

/// One spelling only: digits in lower case.
fn parse(sig: &str) -> Option<[u8; TAG_LEN]> {
    let mut tag = [0; TAG_LEN];
    let digits = sig.as_bytes().chunks_exact(2);
    if sig.len() != 2 * TAG_LEN || sig.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, digits) in tag.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(tag)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const STATEMENT: Statement<'static> = Statement {
        addr: "10.0.0.7:80",
        id: "5e0c8f1a",
        seq: 7,
        time: 1_767_225_600_000,
        state: "up",
        proto: "http/1.1",
    };

    fn key(bytes: &str) -> Key {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, bytes).unwrap();
        Key::load(&file).unwrap()
    }

    /// What Python's `hmac.new(b"0123456789abcdef", text, hashlib.sha256).hexdigest()` says.
    #[test]
    fn signatures_are_those_of_another_implementation() {
        let key = key("0123456789abcdef\n");
        let silent = Statement { seq: u64::MAX, time: 0, state: "", proto: "", ..STATEMENT };
        for (statement, sig) in [
            (STATEMENT, "1abc8245cd6098d1ee12d46742312492f36d99e740bd114efd7f6035f4186303"),
            (silent, "e40d189f50e24906c26f3243b484b6e27c16595718b5307dc39e8644327aa405"),
        ] {
            assert_eq!(statement.sign(&key), sig);
            assert!(Signature::read(&statement, sig).unwrap().is_by(&key));
        }
    }

    #[test]
    fn a_signature_has_one_spelling() {
        let key = key("0123456789abcdef");
        let sig = STATEMENT.sign(&key);
        assert!(Signature::read(&STATEMENT, &sig).is_some());
        for sig in ["", &sig[1..], &sig[2..], &format!("{sig}0"), &format!("{sig}00"), &sig.to_uppercase()] {
            assert_eq!(Signature::read(&STATEMENT, sig), None, "{sig}");
        }
        for odd in [" ", "+", "g", "é"] {
            assert_eq!(Signature::read(&STATEMENT, &format!("{odd}{}", &sig[odd.len()..])), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_changed_about_it_is_noticed(
            addr in "[a-z0-9.:]{1,20}", id in "[!-~]{1,64}", seq: u64, time: u64, draining: bool, h2c: bool,
            field in 0usize..7, at: prop::sample::Index, bit in 0u32..64,
        ) {
            let (state, proto) = (["up", "draining"][usize::from(draining)], ["", "h2c"][usize::from(h2c)]);
            let statement = Statement { addr: &addr, id: &id, seq, time, state, proto };
            let key = key("0123456789abcdef");
            let mut sig = statement.sign(&key);
            prop_assert!(Signature::read(&statement, &sig).unwrap().is_by(&key));

            let other = |text: &str| {
                let mut bytes = text.as_bytes().to_vec();
                let at = at.index(bytes.len());
                bytes[at] ^= 1 + u8::try_from(bit % 3).unwrap();
                String::from_utf8(bytes).unwrap()
            };
            let (other_addr, other_id) = (other(&addr), other(&id));
            let mut changed = statement;
            match field {
                0 => changed.addr = &other_addr,
                1 => changed.id = &other_id,
                2 => changed.seq ^= 1 << bit,
                3 => changed.time ^= 1 << bit,
                4 => changed.state = if draining { "down" } else { "" },
                5 => changed.proto = if h2c { "http/1.1" } else { "h2c" },
                _ => {
                    let digit = at.index(sig.len());
                    let now = if &sig[digit..=digit] == "0" { "1" } else { "0" };
                    sig.replace_range(digit..=digit, now);
                }
            }
            prop_assert!(!Signature::read(&changed, &sig).unwrap().is_by(&key));
        }

        #[test]
        fn any_text_is_a_signature_or_none(sig in "(?s).{0,80}") {
            let _ = Signature::read(&STATEMENT, &sig);
        }
    }
}
