//! A key that two sides share, and what it proves: HMAC-SHA256 (RFC 2104).

use std::fmt;
use std::path::Path;

use ring::hmac::{self, HMAC_SHA256};

use crate::small_file;

/// Bytes of a signature.
pub const TAG_LEN: usize = 32;

/// Shortest key, in bytes: 128 bits, if they are random.
const MIN_LEN: usize = 16;

/// Longest key file, in bytes.
const MAX_LEN: u64 = 4096;

/// The key. What it is made of is never shown.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// All that a file holds, but for a line feed at its end.
    ///
    /// # Errors
    /// What is wrong with the file, with its name: it cannot be read, or holds less than 16 or more than 4096 bytes.
    pub fn load(path: &Path) -> Result<Self, String> {
        let key = small_file::read(path, MAX_LEN).and_then(|bytes| Self::new(&bytes));
        key.map_err(|why| format!("\"{}\" {why}", path.display()))
    }

    fn new(bytes: &[u8]) -> Result<Self, String> {
        let key = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if key.len() < MIN_LEN {
            return Err(format!("holds a key of less than {MIN_LEN} bytes"));
        }
        Ok(Self(hmac::Key::new(HMAC_SHA256, key)))
    }

    /// What only those who have the key can make of a text.
    pub fn sign(&self, text: &[u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        // Both are as long as a SHA-256.
        tag.copy_from_slice(hmac::sign(&self.0, text).as_ref());
        tag
    }

    /// Whether it was made of this text with this key. Takes as long for a wrong one as for the right one.
    pub fn is_signature(&self, text: &[u8], tag: &[u8; TAG_LEN]) -> bool {
        hmac::verify(&self.0, text, tag).is_ok()
    }
}

/// By what they make of the same text.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.is_signature(b"", &other.sign(b""))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// RFC 4231 §4.2; Python's hmac says the same.
    #[test]
    fn it_is_hmac_sha256() {
        let key = Key::new(&[0x0b; 20]).unwrap();
        let tag = key.sign(b"Hi There");
        let expected =
            [0xb034_4c61_d8db_3853_5ca8_afce_af0b_f12b_u128, 0x881d_c200_c983_3da7_26e9_376c_2e32_cff7];
        assert_eq!(tag.to_vec(), expected.map(u128::to_be_bytes).concat());
        assert!(key.is_signature(b"Hi There", &tag));
        assert!(!key.is_signature(b"Hi there", &tag));
        assert!(!Key::new(&[0x0c; 20]).unwrap().is_signature(b"Hi There", &tag));
    }

    #[test]
    fn a_key_file_is_16_to_4096_bytes_and_one_line_feed_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let load = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            Key::load(&file)
        };
        let key = load(b"0123456789abcdef").unwrap();
        assert_eq!(load(b"0123456789abcdef\n").unwrap().sign(b"x"), key.sign(b"x"));
        assert_ne!(load(b"0123456789abcdef\n\n").unwrap().sign(b"x"), key.sign(b"x"));
        assert!(load(&[0; 4096]).is_ok());
        for (bytes, why) in [
            (&b"0123456789abcde\n"[..], "holds a key of less than 16 bytes"),
            (b"", "holds a key of less than 16 bytes"),
            (&[0; 4097], "is larger than 4096 bytes"),
        ] {
            assert_eq!(load(bytes).unwrap_err(), format!("\"{}\" {why}", file.display()));
        }
        assert!(Key::load(dir.path()).unwrap_err().ends_with("is not a file"));
        assert!(Key::load(&dir.path().join("no")).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn it_is_never_shown() {
        assert_eq!(format!("{:?}", Key::new(b"0123456789abcdef").unwrap()), "Key");
    }
}
