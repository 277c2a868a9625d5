//! Fields that are for one connection only, and so never go on (RFC 9110 §7.6.1).

use http::{HeaderMap, HeaderName, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a field is for one connection only, by its name alone.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    name == header::CONNECTION
        || name == header::TRANSFER_ENCODING
        || name == header::UPGRADE
        || name == header::TE
        || name == KEEP_ALIVE
        || name == PROXY_CONNECTION
        || name == header::PROXY_AUTHENTICATE
        || name == header::PROXY_AUTHORIZATION
}

/// Removes what is for one connection only, by name or because a `Connection` field names it.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most heads have none or only a `Connection: keep-alive`: one walk finds that out.
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    if found.contains(&header::CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for name in found {
        headers.remove(name);
    }
}

/// The fields that `Connection` names, but for those without which the message would mean something else.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
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
        .collect()
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
