//! Fields that are for one connection only, and so never go on (RFC 9110 §7.6.1).

use std::collections::HashSet;

use http::{HeaderMap, HeaderValue};

use crate::message::{Fields, Name, Names};

/// Fields that are for one connection only, by their names alone.
const FOR_ONE_CONNECTION: Names = Names::of(&[
    Name::Connection,
    Name::KeepAlive,
    Name::ProxyAuthenticate,
    Name::ProxyAuthorization,
    Name::ProxyConnection,
    Name::Te,
    Name::TransferEncoding,
    Name::Upgrade,
]);

/// Fields that a message must not lose because a `Connection` field names them: those without which it would mean something
/// else, and those that the gateway has seen to already. A user must not be able to take away what a trusted proxy says
/// of him by naming it there.
const NOT_TO_BE_NAMED: Names = Names::of(&[
    Name::ContentLength,
    Name::Host,
    Name::Forwarded,
    Name::XForwardedFor,
    Name::XForwardedHost,
    Name::XForwardedProto,
    Name::Traceparent,
    Name::Tracestate,
    Name::XRequestId,
]);

/// Fields that have no business in trailers (RFC 9110 §6.5.1): they frame or route a message, or say whose it is.
const NOT_IN_TRAILERS: Names = Names::of(&[
    Name::ContentEncoding,
    Name::ContentLength,
    Name::Host,
    Name::Trailer,
    Name::Authorization,
    Name::Cookie,
    Name::SetCookie,
    Name::Forwarded,
    Name::XForwardedFor,
    Name::XForwardedHost,
    Name::XForwardedProto,
]);

/// Removes what is for one connection only, by name or because a `Connection` field names it. Returns whether
/// `TE: trailers` was among it.
pub(super) fn remove_hop_by_hop(headers: &mut Fields) -> bool {
    if !headers.may_contain(FOR_ONE_CONNECTION) {
        return false;
    }
    let wants_trailers = lists(headers, Name::Te, b"trailers");
    let named = named_by_connection(headers);
    if !named.is_empty() {
        headers.retain(|field| !named.contains(field.written_name()));
    }
    headers.remove_all(FOR_ONE_CONNECTION);
    wants_trailers
}

/// Removes from trailers what has its place in the head, or is for one connection only.
pub(in crate::proxy) fn clean_trailers(trailers: &HeaderMap) -> HeaderMap {
    let mut fields = Fields::from(trailers);
    remove_hop_by_hop(&mut fields);
    fields.remove_all(NOT_IN_TRAILERS);
    HeaderMap::from(&fields)
}

/// Whether a message is one of gRPC, by its type (`application/grpc`, `application/grpc+proto`, …).
pub fn is_grpc(headers: &Fields) -> bool {
    headers.get(Name::ContentType).is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Whether a field's list has a member, whatever its parameters.
fn lists(headers: &Fields, name: Name, member: &[u8]) -> bool {
    let mut members = headers.get_all(name).flat_map(|value| value.split(|b| *b == b',' || *b == b';'));
    members.any(|found| found.trim_ascii().eq_ignore_ascii_case(member))
}

/// Says that trailers are understood here (RFC 9110 §10.1.4), beside what `Connection` says already.
pub(super) fn insert_te_trailers(headers: &mut Fields) {
    headers.insert(Name::Te, &HeaderValue::from_static("trailers"));
    headers.append(Name::Connection, &HeaderValue::from_static("te"));
}

/// The fields that `Connection` names and that may be removed for it. A set: there may be thousands, of which each field is
/// asked.
pub(super) fn named_by_connection(headers: &Fields) -> HashSet<Vec<u8>> {
    let names_none =
        |value: &[u8]| value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close");
    headers
        .get_all(Name::Connection)
        .filter(|value| !names_none(value)) // as most do
        .flat_map(|value| value.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !names_none(option))
        .map(<[u8]>::to_ascii_lowercase)
        .filter(|name| !Name::of(name).is_some_and(|name| NOT_TO_BE_NAMED.contains(name)))
        .collect()
}

/// The protocols that a message wants to switch to (RFC 9110 §7.8), if it says so in both places. Another HTTP is
/// not among them: requests in such a tunnel would go past everything that is checked here.
pub(super) fn upgrade_wanted(headers: &Fields) -> Option<HeaderValue> {
    let is_http = |name: &[u8]| {
        let name = name.trim_ascii().to_ascii_lowercase();
        name.starts_with(b"h2") || name.starts_with(b"http") || name.starts_with(b"tls")
    };
    let protocol = headers.get(Name::Upgrade)?;
    if headers.get_all(Name::Upgrade).any(|line| line.split(|b| *b == b',').any(is_http)) {
        return None;
    }
    lists(headers, Name::Connection, b"upgrade").then(|| HeaderValue::from_bytes(protocol).ok())?
}

/// Says the same on the next connection.
pub(super) fn insert_upgrade(headers: &mut Fields, protocol: &HeaderValue) {
    headers.insert(Name::Upgrade, protocol);
    headers.insert(Name::Connection, &HeaderValue::from_static("upgrade"));
}

/// Whether a field is for one connection only, by the names that RFC 9110 has in §7.6.1 and §11.7, not by the table above.
#[cfg(test)]
pub(super) fn is_hop_by_hop(name: &[u8]) -> bool {
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
    names.iter().any(|other| other.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Field;

    fn headers(fields: &[(&str, &str)]) -> Fields {
        let mut headers = Fields::new();
        for (name, value) in fields {
            headers.append_checked(name.as_bytes(), value.as_bytes());
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
            prop_assert!(after.iter().map(Field::written_name).all(|name| !is_hop_by_hop(name) && !named.contains(name)));
        }
    }
}
