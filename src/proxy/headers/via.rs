//! Saying that a message went through here (RFC 9110 §7.6.3), and seeing that one already did.

use http::{HeaderValue, Version};

use crate::message::{Fields, Name};

/// This gateway's entries in `Via`. Its name there is its own: two gateways in a row are no loop.
pub(in crate::proxy) struct Via {
    name: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// A name that no other gateway has.
    pub(in crate::proxy) fn new() -> Self {
        let name = format!("nsq-gateway-{:08x}", rand::random::<u32>());
        let entry = |version| {
            // Letters, digits and hyphens are a field value.
            HeaderValue::try_from(format!("{version} {name}"))
                .unwrap_or(HeaderValue::from_static("1.1 nsq-gateway"))
        };
        Self { http10: entry("1.0"), http11: entry("1.1"), http2: entry("2"), name }
    }

    /// Whether a message with these fields went through this gateway.
    pub(super) fn names_us(&self, headers: &Fields) -> bool {
        headers.get_all(Name::Via).filter_map(|value| str::from_utf8(value).ok()).any(|value| {
            value.split(',').any(|entry| entry.split_ascii_whitespace().nth(1) == Some(self.name.as_str()))
        })
    }

    /// Adds our entry to what others said before.
    pub(super) fn add(&self, headers: &mut Fields, received: Version) {
        let entry = match received {
            Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        };
        headers.append(Name::Via, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_23_our_own_entry_is_known_among_others() {
        let (ours, other) = (Via::new(), Via::new());
        let mut headers = Fields::new();
        headers.append(Name::Via, &HeaderValue::from_static("1.0 fred, 1.1 p.example.net (comment)"));
        other.add(&mut headers, Version::HTTP_11);
        assert!(!ours.names_us(&headers) && other.names_us(&headers));
        ours.add(&mut headers, Version::HTTP_2);
        assert!(ours.names_us(&headers));
    }
}
