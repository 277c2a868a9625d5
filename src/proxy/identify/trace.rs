//! `traceparent`: version, trace, parent and flags (W3C Trace Context, §3.2).

use http::HeaderValue;
use rand::RngCore;

use super::hexadecimal;

/// The length in version 00.
const BYTES: usize = 55;

/// A trace that begins here. It says that it is recorded: whoever goes by that flag would else record nothing of it.
pub(super) fn make(rng: &mut impl RngCore) -> HeaderValue {
    let mut value = Vec::with_capacity(BYTES);
    value.extend_from_slice(b"00-");
    hexadecimal::<16>(rng, &mut value);
    value.push(b'-');
    hexadecimal::<8>(rng, &mut value);
    value.extend_from_slice(b"-01");
    // Digits and hyphens are a field value.
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("-"))
}

/// Whether it is one. A version to come may have more at its end; `ff` is none.
pub(super) fn is_good(value: &[u8]) -> bool {
    let (Some((value, more)), true) = (value.split_at_checked(BYTES), value.is_ascii()) else { return false };
    let mut parts = value.split(|byte| *byte == b'-');
    let mut part =
        |digits| parts.next().filter(|part| part.len() == digits && part.iter().copied().all(is_digit));
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (part(2), part(32), part(16), part(2))
    else {
        return false;
    };
    let is_nothing = |id: &[u8]| id.iter().all(|digit| *digit == b'0');
    let ends_well = more.is_empty() || version != b"00" && more.starts_with(b"-");
    version != b"ff" && !is_nothing(trace) && !is_nothing(parent) && ends_well
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_what_the_standard_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for value in
            [good.to_owned(), good.replace("00-4", "01-4"), good.replace("00-4", "cc-4") + "-what-comes"]
        {
            assert!(is_good(value.as_bytes()), "{value}");
        }
        for value in [
            String::new(),
            good.to_uppercase(),
            format!("{good}-x"),
            format!("{good} "),
            good.replace("00-4", "ff-4"),
            good.replace("00-4", "01-4") + "x",
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good.replace("-01", "-0g"),
            good.replace("4736-00f0", "473-600f0"),
            good[..54].to_owned(),
        ] {
            assert!(!is_good(value.as_bytes()), "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_one_or_not(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            is_good(&value);
        }

        #[test]
        fn a_good_one_with_a_byte_changed_has_the_form_or_is_none(at in 0usize..55, byte in any::<u8>()) {
            let mut value = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_vec();
            value[at] = byte;
            let is_hyphen = [2, 35, 52].contains(&at);
            // Whatever the version, it has no more than this.
            let expected = if is_hyphen { byte == b'-' } else { is_digit(byte) };
            prop_assert_eq!(is_good(&value), expected);
        }
    }
}
