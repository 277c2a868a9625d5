//! Fields that are for one connection only, and so never go on (RFC 9110 §7.6.1).

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::origin::{is_about_origin, origin_fields};
use crate::message::Fields;
use crate::proxy::identify::is_identity;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a field is for one connection only, by its name alone. A `match`, since every field of every message is asked.
fn is_for_one_connection(name: &HeaderName) -> bool {
    match *name {
        header::CONNECTION
        | header::TRANSFER_ENCODING
        | header::UPGRADE
        | header::TE
        | header::PROXY_AUTHENTICATE
        | header::PROXY_AUTHORIZATION => true,
        _ => *name == KEEP_ALIVE || *name == PROXY_CONNECTION,
    }
}

/// Removes what is for one connection only, by name or because a `Connection` field names it. Returns whether
/// `TE: trailers` was among it.
pub(super) fn remove_hop_by_hop(headers: &mut Fields) -> bool {
    if !headers.keys().any(is_for_one_connection) {
        return false;
    }
    let wants_trailers = lists(headers, &header::TE, b"trailers");
    let named = named_by_connection(headers);
    headers.retain(|name| !is_for_one_connection(name) && !named.contains(name));
    wants_trailers
}

/// Removes from trailers what has no business there (RFC 9110 §6.5.1): whatever frames or routes a message or says whose it is,
/// which has its place in the head, or is for one connection only.
pub(in crate::proxy) fn clean_trailers(trailers: HeaderMap) -> HeaderMap {
    let mut fields = Fields::from(trailers);
    remove_hop_by_hop(&mut fields);
    let about_user = [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
    let framing = [header::CONTENT_LENGTH, header::HOST, header::TRAILER, header::CONTENT_ENCODING];
    for name in framing.into_iter().chain(about_user).chain(origin_fields()) {
        fields.remove(name);
    }
    HeaderMap::from(&mut fields)
}

/// Whether a message is one of gRPC, by its type (`application/grpc`, `application/grpc+proto`, …).
pub fn is_grpc(headers: &Fields) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a field's list has a member, whatever its parameters.
fn lists(headers: &Fields, name: &HeaderName, member: &[u8]) -> bool {
    let members =
        headers.get_all(name).flat_map(|value| value.as_bytes().split(|b| *b == b',' || *b == b';'));
    members.into_iter().any(|found| found.trim_ascii().eq_ignore_ascii_case(member))
}

/// Says that trailers are understood here (RFC 9110 §10.1.4), beside what `Connection` says already.
pub(super) fn insert_te_trailers(headers: &mut Fields) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.append(header::CONNECTION, HeaderValue::from_static("te"));
}

/// The fields that `Connection` names, but for those without which the message would mean something else, and those
/// that the gateway has seen to already: a user must not be able to take away what a trusted proxy says of him by naming
/// it here. A set: there may be thousands, of which each field is asked.
pub(super) fn named_by_connection(headers: &Fields) -> HashSet<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| {
            !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"close")
        })
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| name != header::HOST && name != header::CONTENT_LENGTH)
        .filter(|name| !is_about_origin(name) && !is_identity(name))
        .collect()
}

/// The protocols that a message wants to switch to (RFC 9110 §7.8), if it says so in both places. Another HTTP is
/// not among them: requests in such a tunnel would go past everything that is checked here.
pub(super) fn upgrade_wanted(headers: &Fields) -> Option<HeaderValue> {
    let is_http = |name: &[u8]| {
        let name = name.trim_ascii().to_ascii_lowercase();
        name.starts_with(b"h2") || name.starts_with(b"http") || name.starts_with(b"tls")
    };
    let protocol = headers.get(header::UPGRADE)?;
    if headers.get_all(header::UPGRADE).any(|line| line.as_bytes().split(|b| *b == b',').any(is_http)) {
        return None;
    }
    lists(headers, &header::CONNECTION, b"upgrade").then(|| protocol.clone())
}

/// Says the same on the next connection.
pub(super) fn insert_upgrade(headers: &mut Fields, protocol: HeaderValue) {
    headers.insert(header::UPGRADE, protocol);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Whether a field is for one connection only, by the names that RFC 9110 has in §7.6.1 and §11.7, not by the table above.
#[cfg(test)]
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    let names = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    names.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Fields {
        let mut headers = Fields::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn http_20_what_any_connection_line_names_is_removed() {
        let mut fields = headers(&[
            ("connection", "close, X-One"),
            ("connection", "x-two ,,bad name"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
        ]);
        remove_hop_by_hop(&mut fields);
        assert_eq!(fields, headers(&[("x-three", "3")]));
    }

    #[test]
    fn http_22_the_message_keeps_what_it_cannot_do_without() {
        let mut fields =
            headers(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "1")]);
        remove_hop_by_hop(&mut fields);
        assert_eq!(fields, headers(&[("host", "a"), ("content-length", "1")]));
    }

    #[test]
    fn http_28_another_protocol_is_wanted_in_both_fields_and_never_another_http() {
        let wanted = |connection, upgrade| {
            upgrade_wanted(&headers(&[("connection", connection), ("upgrade", upgrade)])).is_some()
        };
        assert!(wanted("keep-alive, Upgrade", "websocket") && wanted("upgrade", "x, y"));
        assert!(!wanted("keep-alive", "websocket") && !wanted("upgraded", "websocket"));
        for http in ["h2c", "websocket, H2C", "HTTP/2.0", "TLS/1.3"] {
            assert!(!wanted("upgrade", http), "{http}");
        }
    }

    proptest! {
        #[test]
        fn no_hop_by_hop_field_survives(fields in proptest::collection::vec(
            (prop::sample::select(vec!["connection", "keep-alive", "te", "upgrade", "transfer-encoding", "proxy-connection",
                "x-a", "x-b", "via", "host"]), prop::sample::select(vec!["x-a", "X-B, close", "chunked", "", "via,te"])),
            0..12,
        )) {
            let before = headers(&fields);
            let named = named_by_connection(&before);
            let mut after = before;
            remove_hop_by_hop(&mut after);
            prop_assert!(after.keys().all(|name| !is_hop_by_hop(name) && !named.contains(name)));
        }
    }
}
