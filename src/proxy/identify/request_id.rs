//! `X-Request-Id`. No standard says what it is: what is common is taken.

use http::HeaderValue;
use rand::RngCore;

use super::hexadecimal;

const MOST_BYTES: usize = 128;

/// Whether it may be passed on: 1 to 128 letters, digits and a few signs. UUIDs, ULIDs, numbers, base64 and what other
/// gateways make are among them.
pub(super) fn is_good(id: &[u8]) -> bool {
    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~:/+=@".contains(byte);
    (1..=MOST_BYTES).contains(&id.len()) && id.iter().all(is_fine)
}

/// A new one: 128 random bits.
pub(super) fn make(rng: &mut impl RngCore) -> HeaderValue {
    let mut id = Vec::with_capacity(32);
    hexadecimal::<16>(rng, &mut id);
    // Digits are a field value.
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
}
