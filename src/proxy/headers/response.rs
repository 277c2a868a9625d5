//! A dataserver's answer, made into the one that the user gets.

use http::{StatusCode, Version, header};

use super::fields::{insert_upgrade, remove_hop_by_hop, upgrade_wanted};
use super::via::Via;
use crate::message::Response;

/// Removes what was for the connection to the dataserver alone.
pub(super) fn rewrite<B>(response: &mut Response<B>, via: &Via) {
    let (version, status) = (response.version(), response.status());
    let headers = response.headers_mut();
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH); // RFC 9110 §8.6
    }
    // h2 takes a length that is said twice; not every user does.
    if version == Version::HTTP_2
        && let Some(length) = headers.get(header::CONTENT_LENGTH).cloned()
    {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    let upgrade = if status == StatusCode::SWITCHING_PROTOCOLS { upgrade_wanted(headers) } else { None };
    remove_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        insert_upgrade(headers, protocol);
    }
    via.add(headers, version);
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::super::fields::{is_hop_by_hop, named_by_connection};
    use super::*;

    proptest! {
        #[test]
        fn nothing_that_was_for_one_connection_reaches_the_user(
            status in prop::sample::select(vec![101, 200, 204, 304, 502]),
            version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
            fields in prop::collection::vec(
                (prop::sample::select(vec!["connection", "connection", "keep-alive", "proxy-connection", "proxy-authenticate",
                    "te", "transfer-encoding", "upgrade", "via", "content-length", "set-cookie", "x-mine"]),
                 prop::sample::select(vec!["upgrade", "close, X-Mine", "via, content-length", "set-cookie", "websocket", "7", ""])),
                0..12),
        ) {
            let response = http::Response::builder().status(status).version(version).body(()).unwrap();
            let mut response = Response::from(response);
            for (name, value) in fields {
                response.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let before = response.headers().clone();
            let named = named_by_connection(&before);
            rewrite(&mut response, &Via::new());
            let after = response.headers();
            for name in after.keys().filter(|name| is_hop_by_hop(name)) {
                let switches = status == 101 && (name == header::UPGRADE || name == header::CONNECTION);
                prop_assert!(switches, "{name} survives");
            }
            let via: Vec<_> = after.get_all(header::VIA).collect();
            prop_assert!(via.last().unwrap().to_str().unwrap().contains("nsq-gateway-"));
            prop_assert!(status != 204 || !after.contains_key(header::CONTENT_LENGTH));
            for name in ["set-cookie", "x-mine"].map(HeaderName::from_static) {
                let (was, is): (Vec<_>, Vec<_>) = (before.get_all(&name).collect(), after.get_all(&name).collect());
                prop_assert!(if named.contains(&name) { is.is_empty() } else { was == is }, "{name}");
            }
        }
    }
}
