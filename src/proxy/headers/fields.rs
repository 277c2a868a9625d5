//! Fields that are for one connection only, and so never go on (RFC 9110 §7.6.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::origin::{is_about_origin, origin_fields};
use crate::proxy::identify::is_identity;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The fields that are for one connection only, by their names alone.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
];

/// Where in [`HOP_BY_HOP`] a name stands. A `match`, since every field of every message is asked.
fn place(name: &HeaderName) -> Option<usize> {
    match *name {
        header::CONNECTION => Some(0),
        header::TRANSFER_ENCODING => Some(1),
        header::UPGRADE => Some(2),
        header::TE => Some(3),
        header::PROXY_AUTHENTICATE => Some(4),
        header::PROXY_AUTHORIZATION => Some(5),
        _ if *name == KEEP_ALIVE => Some(6),
        _ if *name == PROXY_CONNECTION => Some(7),
        _ => None,
    }
}

/// Which of [`HOP_BY_HOP`] a head has. Most have none or only a `Connection: keep-alive`: one walk finds that out.
struct HopByHop([bool; HOP_BY_HOP.len()]);

impl HopByHop {
    fn of(headers: &HeaderMap) -> Self {
        let mut found = [false; HOP_BY_HOP.len()];
        for name in headers.keys() {
            if let Some(found) = place(name).and_then(|place| found.get_mut(place)) {
                *found = true;
            }
        }
        Self(found)
    }

    fn has(&self, name: &HeaderName) -> bool {
        place(name).and_then(|place| self.0.get(place)).is_some_and(|found| *found)
    }

    fn names(&self) -> impl Iterator<Item = &'static HeaderName> {
        HOP_BY_HOP.iter().zip(self.0).filter_map(|(name, found)| found.then_some(name))
    }
}

/// Removes what is for one connection only, by name or because a `Connection` field names it. Returns whether
/// `TE: trailers` was among it.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) -> bool {
    let found = HopByHop::of(headers);
    let wants_trailers = found.has(&header::TE) && lists(headers, &header::TE, b"trailers");
    if found.has(&header::CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for name in found.names() {
        headers.remove(name);
    }
    wants_trailers
}

/// Removes from trailers what has no business there (RFC 9110 §6.5.1): whatever frames or routes a message or says whose it is,
/// which has its place in the head, or is for one connection only.
pub(in crate::proxy) fn clean_trailers(mut trailers: HeaderMap) -> HeaderMap {
    remove_hop_by_hop(&mut trailers);
    let about_user = [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
    let framing = [header::CONTENT_LENGTH, header::HOST, header::TRAILER, header::CONTENT_ENCODING];
    for name in framing.into_iter().chain(about_user).chain(origin_fields()) {
        trailers.remove(name);
    }
    trailers
}

/// Whether a message is one of gRPC, by its type (`application/grpc`, `application/grpc+proto`, …).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a field's list has a member, whatever its parameters.
fn lists(headers: &HeaderMap, name: &HeaderName, member: &[u8]) -> bool {
    let members =
        headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|b| *b == b',' || *b == b';'));
    members.into_iter().any(|found| found.trim_ascii().eq_ignore_ascii_case(member))
}

/// Says that trailers are understood here (RFC 9110 §10.1.4), beside what `Connection` says already.
pub(super) fn insert_te_trailers(headers: &mut HeaderMap) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.append(header::CONNECTION, HeaderValue::from_static("te"));
}

/// The fields that `Connection` names, but for those without which the message would mean something else, and those
/// that the gateway has seen to already: a user must not be able to take away what a trusted proxy says of him by naming
/// it here.
pub(super) fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
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
pub(super) fn upgrade_wanted(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_http = |name: &[u8]| {
        let name = name.trim_ascii().to_ascii_lowercase();
        name.starts_with(b"h2") || name.starts_with(b"http") || name.starts_with(b"tls")
    };
    let protocol = headers.get(header::UPGRADE)?;
    if headers.get_all(header::UPGRADE).iter().any(|line| line.as_bytes().split(|b| *b == b',').any(is_http))
    {
        return None;
    }
    lists(headers, &header::CONNECTION, b"upgrade").then(|| protocol.clone())
}

/// Says the same on the next connection.
pub(super) fn insert_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
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

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
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

    #[test]
    fn every_field_for_one_connection_is_known_by_its_place() {
        for (index, name) in HOP_BY_HOP.iter().enumerate() {
            assert_eq!(place(name), Some(index), "{name}");
        }
        assert_eq!(place(&header::HOST), None);
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
            prop_assert!(after.keys().all(|name| !HOP_BY_HOP.contains(name) && !named.contains(name)));
        }
    }
}
