//! Saying where a request came from: `X-Forwarded-For`, `-Proto`, `-Host`, and `Forwarded` (RFC 7239).
//!
//! What a client says under these names is no evidence, so it is replaced. A trusted proxy in front knows more than
//! this gateway, so what it says stays, and the gateway adds only what it saw itself.

use std::net::IpAddr;

use http::HeaderValue;

use super::Client;
use crate::addr::Networks;
use crate::message::{Field, Fields, Name};

/// Whether a field says where a request came from, also to a dataserver behind CGI or WSGI, where an underscore and a hyphen
/// are the same.
fn looks_as_if(field: Field<'_>) -> bool {
    match field.written_name() {
        [b'x', separator @ (b'-' | b'_'), rest @ ..] => rest.strip_prefix(b"forwarded").is_some_and(|rest| {
            *separator == b'_' || rest.contains(&b'_') || matches!(rest, b"-for" | b"-proto" | b"-host")
        }),
        _ => field.name() == Some(Name::Forwarded),
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

    /// Says it of a request whose `Host` was settled; these are proxies whose word on that counts.
    pub(super) fn tell(&self, headers: &mut Fields, trusted_proxies: &Networks) {
        if trusted_proxies.contains(self.ip) {
            // No proxy spells them so, and it may have passed on what its own user did.
            headers.retain(|field| !(looks_as_if(field) && field.written_name().contains(&b'_')));
            return self.add(headers);
        }
        headers.retain(|field| !looks_as_if(field));
        headers.append(Name::XForwardedFor, &self.address);
        headers.append(Name::XForwardedProto, &HeaderValue::from_static(self.proto));
        headers.append_as(Name::XForwardedHost, Name::Host);
    }

    /// Says it of a request from a trusted proxy, after what that says.
    fn add(&self, headers: &mut Fields) {
        // A chain that begins in the middle would name the proxy as the client.
        if headers.contains(Name::Forwarded) {
            let member = self.forwarded(headers.get(Name::Host));
            extend(headers, Name::Forwarded, &member);
        }
        extend(headers, Name::XForwardedFor, self.address.as_bytes());
        if !headers.contains(Name::XForwardedProto) {
            headers.append(Name::XForwardedProto, &HeaderValue::from_static(self.proto));
        }
        if !headers.contains(Name::XForwardedHost) {
            headers.append_as(Name::XForwardedHost, Name::Host);
        }
    }

    /// This gateway's element of `Forwarded` (RFC 7239 §4). A host that went through the checks has nothing in it
    /// that would end a quoted string.
    fn forwarded(&self, host: Option<&[u8]>) -> Vec<u8> {
        let mut element = match self.ip {
            IpAddr::V4(ip) => format!("for={ip};"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";"),
        }
        .into_bytes();
        if let Some(host) = host {
            element.extend_from_slice(b"host=\"");
            element.extend_from_slice(host);
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
fn extend(headers: &mut Fields, name: Name, member: &[u8]) {
    let lines = headers.get_all(name).map(<[u8]>::trim_ascii);
    let mut members: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    members.push(member);
    // Values that are fine one by one are fine joined.
    if let Ok(joined) = HeaderValue::from_bytes(&members.join(&b", "[..])) {
        headers.insert(name, &joined);
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
        // Also where a proxy is trusted: it may have passed on what its own user said.
        for trusted in ["", "9.9.9.9"] {
            for name in ["x_forwarded_for", "x-forwarded_for", "x_forwarded-host"] {
                assert!(
                    !told("9.9.9.9", false, trusted, &[(name, "127.0.0.1")])
                        .iter()
                        .any(|field| field.written_name() == name.as_bytes()),
                    "{name}"
                );
            }
        }
        for name in ["x_forward", "x-forwarded-port", "x_other"] {
            assert!(
                told("9.9.9.9", false, "", &[(name, "1")])
                    .iter()
                    .any(|field| field.written_name() == name.as_bytes()),
                "{name}"
            );
        }
    }

    fn told(ip: &str, over_tls: bool, trusted: &str, fields: &[(&str, &str)]) -> Fields {
        let config: crate::config::Config =
            format!("gateway: {{trusted_proxies: [{trusted}]}}").parse().unwrap();
        let client = Client { ip: ip.parse().unwrap(), over_tls };
        let mut headers = Fields::new();
        headers.append(Name::Host, &HeaderValue::from_static("a:81"));
        for (name, value) in fields {
            headers.append_checked(name.as_bytes(), value.as_bytes());
        }
        Origin::new(client).tell(&mut headers, &config.gateway.trusted_proxies);
        headers
    }

    fn all(headers: &Fields, name: Name) -> Vec<&str> {
        headers.get_all(name).map(|value| str::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn http_24_what_a_stranger_says_is_replaced() {
        let said = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=6.6.6.6"),
        ];
        let headers = told("::ffff:8.8.8.8", false, "private", &said);
        assert_eq!(all(&headers, Name::XForwardedFor), ["8.8.8.8"]);
        assert_eq!(all(&headers, Name::XForwardedProto), ["http"]);
        assert_eq!(all(&headers, Name::XForwardedHost), ["a:81"]);
        assert!(all(&headers, Name::Forwarded).is_empty());
    }

    #[test]
    fn http_24_what_a_trusted_proxy_says_stays_and_ours_comes_last() {
        let said = [
            ("x-forwarded-for", "6.6.6.6 "),
            ("x-forwarded-for", ""),
            ("x-forwarded-for", "7.7.7.7, 8.8.8.8"),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-host", "b"),
            ("forwarded", "for=6.6.6.6"),
            ("forwarded", "for=_x"),
        ];
        let headers = told("10.0.0.1", true, "private", &said);
        assert_eq!(all(&headers, Name::XForwardedFor), ["6.6.6.6, 7.7.7.7, 8.8.8.8, 10.0.0.1"]);
        assert_eq!(all(&headers, Name::XForwardedProto), ["ftp"]);
        assert_eq!(all(&headers, Name::XForwardedHost), ["b"]);
        let forwarded = "for=6.6.6.6, for=_x, for=10.0.0.1;host=\"a:81\";proto=https";
        assert_eq!(all(&headers, Name::Forwarded), [forwarded]);
    }

    #[test]
    fn http_24_what_a_trusted_proxy_does_not_say_is_said_here() {
        let headers = told("fd00::1", true, "private", &[]);
        assert_eq!(all(&headers, Name::XForwardedFor), ["fd00::1"]);
        assert_eq!(all(&headers, Name::XForwardedProto), ["https"]);
        assert_eq!(all(&headers, Name::XForwardedHost), ["a:81"]);
        assert!(all(&headers, Name::Forwarded).is_empty());
        let headers = told("fd00::1", false, "private", &[("forwarded", "for=unknown")]);
        let forwarded = "for=unknown, for=\"[fd00::1]\";host=\"a:81\";proto=http";
        assert_eq!(all(&headers, Name::Forwarded), [forwarded]);
    }
}
