//! Saying where a request came from: `X-Forwarded-For`, `-Proto`, `-Host`, and `Forwarded` (RFC 7239).
//!
//! What a client says under these names is no evidence, so it is replaced. A trusted proxy in front knows more than
//! this gateway, so what it says stays, and the gateway adds only what it saw itself.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, header};

use super::Client;
use crate::addr::Networks;
use crate::message::Fields;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The fields that say where a request came from.
pub(super) fn origin_fields() -> [HeaderName; 4] {
    [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, header::FORWARDED]
}

/// Whether a field says where a request came from.
pub(super) fn is_about_origin(name: &HeaderName) -> bool {
    name == X_FORWARDED_FOR
        || name == X_FORWARDED_PROTO
        || name == X_FORWARDED_HOST
        || name == header::FORWARDED
}

/// Whether a field says where a request came from, also to a dataserver behind CGI or WSGI, where an underscore and a hyphen
/// are the same.
fn looks_as_if(name: &HeaderName) -> bool {
    match name.as_str().as_bytes() {
        [b'x', separator @ (b'-' | b'_'), rest @ ..] => rest.strip_prefix(b"forwarded").is_some_and(|rest| {
            *separator == b'_' || rest.contains(&b'_') || matches!(rest, b"-for" | b"-proto" | b"-host")
        }),
        _ => *name == header::FORWARDED,
    }
}

/// What is said of all requests of one connection.
pub(super) struct Origin {
    ip: IpAddr,
    /// The same as a field value.
    address: HeaderValue,
    proto: &'static str,
}

impl Origin {
    pub(super) fn new(client: Client) -> Self {
        let ip = client.ip.to_canonical();
        // An IP address is always a field value; "unknown" is RFC 7239's word for one that is not.
        let address = HeaderValue::try_from(text(ip));
        Self {
            ip,
            address: address.unwrap_or(HeaderValue::from_static("unknown")),
            proto: if client.over_tls { "https" } else { "http" },
        }
    }

    /// Says it of a request for this host; these are proxies whose word on that counts.
    pub(super) fn tell(&self, headers: &mut Fields, host: Option<HeaderValue>, trusted_proxies: &Networks) {
        if trusted_proxies.contains(self.ip) {
            return self.add(headers, host);
        }
        headers.retain(|name| !looks_as_if(name));
        headers.append(X_FORWARDED_FOR, self.address.clone());
        headers.append(X_FORWARDED_PROTO, HeaderValue::from_static(self.proto));
        if let Some(host) = host {
            headers.append(X_FORWARDED_HOST, host);
        }
    }

    /// Says it of a request from a trusted proxy, after what that says.
    fn add(&self, headers: &mut Fields, host: Option<HeaderValue>) {
        // A chain that begins in the middle would name the proxy as the client.
        if headers.contains_key(header::FORWARDED) {
            extend(headers, header::FORWARDED, &self.forwarded(host.as_ref()));
        }
        extend(headers, X_FORWARDED_FOR, self.address.as_bytes());
        headers.insert_if_absent(X_FORWARDED_PROTO, HeaderValue::from_static(self.proto));
        if let Some(host) = host {
            headers.insert_if_absent(X_FORWARDED_HOST, host);
        }
    }

    /// This gateway's element of `Forwarded` (RFC 7239 §4). A host that went through the checks has nothing in it
    /// that would end a quoted string.
    fn forwarded(&self, host: Option<&HeaderValue>) -> Vec<u8> {
        let mut element = match self.ip {
            IpAddr::V4(ip) => format!("for={ip};"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";"),
        }
        .into_bytes();
        if let Some(host) = host {
            element.extend_from_slice(b"host=\"");
            element.extend_from_slice(host.as_bytes());
            element.extend_from_slice(b"\";");
        }
        element.extend_from_slice(b"proto=");
        element.extend_from_slice(self.proto.as_bytes());
        element
    }
}

/// An address as it is written. Each connection needs it, so that it must not take a tenth of what a request does.
fn text(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else { return ip.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in ip.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(octet));
    }
    text
}

/// Adds a member to a list, whose lines become one (RFC 9110 §5.3): many a dataserver reads only the first.
fn extend(headers: &mut Fields, name: HeaderName, member: &[u8]) {
    let lines = headers.get_all(&name).map(|line| line.as_bytes().trim_ascii());
    let mut members: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    members.push(member);
    // Values that are fine one by one are fine joined.
    if let Ok(joined) = HeaderValue::from_bytes(&members.join(&b", "[..])) {
        headers.insert(name, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn an_address_is_written_as_everybody_does(ip: IpAddr) {
            proptest::prop_assert_eq!(text(ip), ip.to_string());
        }
    }

    #[test]
    fn http_24_a_field_that_looks_like_ours_with_underscores_is_removed() {
        for name in ["x_forwarded_for", "x-forwarded_for", "x_forwarded-host"] {
            let name = HeaderName::from_static(name);
            assert!(
                !told("9.9.9.9", false, "", &[(name.clone(), "127.0.0.1")]).contains_key(&name),
                "{name}"
            );
        }
        for name in ["x_forward", "x-forwarded-port", "x_other"] {
            let name = HeaderName::from_static(name);
            assert!(told("9.9.9.9", false, "", &[(name.clone(), "1")]).contains_key(&name), "{name}");
        }
    }

    fn told(ip: &str, over_tls: bool, trusted: &str, fields: &[(HeaderName, &'static str)]) -> Fields {
        let config: crate::config::Config =
            format!("gateway: {{trusted_proxies: [{trusted}]}}").parse().unwrap();
        let client = Client { ip: ip.parse().unwrap(), over_tls };
        let mut headers = Fields::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        let host = Some(HeaderValue::from_static("a:81"));
        Origin::new(client).tell(&mut headers, host, &config.gateway.trusted_proxies);
        headers
    }

    fn all<'a>(headers: &'a Fields, name: &HeaderName) -> Vec<&'a str> {
        headers.get_all(name).map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn http_24_what_a_stranger_says_is_replaced() {
        let said = [
            (X_FORWARDED_FOR, "6.6.6.6"),
            (X_FORWARDED_PROTO, "https"),
            (X_FORWARDED_HOST, "evil"),
            (header::FORWARDED, "for=6.6.6.6"),
        ];
        let headers = told("::ffff:8.8.8.8", false, "private", &said);
        assert_eq!(all(&headers, &X_FORWARDED_FOR), ["8.8.8.8"]);
        assert_eq!(all(&headers, &X_FORWARDED_PROTO), ["http"]);
        assert_eq!(all(&headers, &X_FORWARDED_HOST), ["a:81"]);
        assert!(all(&headers, &header::FORWARDED).is_empty());
    }

    #[test]
    fn http_24_what_a_trusted_proxy_says_stays_and_ours_comes_last() {
        let said = [
            (X_FORWARDED_FOR, "6.6.6.6 "),
            (X_FORWARDED_FOR, ""),
            (X_FORWARDED_FOR, "7.7.7.7, 8.8.8.8"),
            (X_FORWARDED_PROTO, "ftp"),
            (X_FORWARDED_HOST, "b"),
            (header::FORWARDED, "for=6.6.6.6"),
            (header::FORWARDED, "for=_x"),
        ];
        let headers = told("10.0.0.1", true, "private", &said);
        assert_eq!(all(&headers, &X_FORWARDED_FOR), ["6.6.6.6, 7.7.7.7, 8.8.8.8, 10.0.0.1"]);
        assert_eq!(all(&headers, &X_FORWARDED_PROTO), ["ftp"]);
        assert_eq!(all(&headers, &X_FORWARDED_HOST), ["b"]);
        let forwarded = "for=6.6.6.6, for=_x, for=10.0.0.1;host=\"a:81\";proto=https";
        assert_eq!(all(&headers, &header::FORWARDED), [forwarded]);
    }

    #[test]
    fn http_24_what_a_trusted_proxy_does_not_say_is_said_here() {
        let headers = told("fd00::1", true, "private", &[]);
        assert_eq!(all(&headers, &X_FORWARDED_FOR), ["fd00::1"]);
        assert_eq!(all(&headers, &X_FORWARDED_PROTO), ["https"]);
        assert_eq!(all(&headers, &X_FORWARDED_HOST), ["a:81"]);
        assert!(all(&headers, &header::FORWARDED).is_empty());
        let headers = told("fd00::1", false, "private", &[(header::FORWARDED, "for=unknown")]);
        let forwarded = "for=unknown, for=\"[fd00::1]\";host=\"a:81\";proto=http";
        assert_eq!(all(&headers, &header::FORWARDED), [forwarded]);
    }
}
