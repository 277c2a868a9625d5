//! A dataserver's answer, made into the one that the user gets.

use http::{StatusCode, Version};

use super::fields::{insert_upgrade, remove_hop_by_hop, upgrade_wanted};
use super::via::Via;
use crate::message::{Name, Response};

/// Removes what was for the connection to the dataserver alone.
pub(super) fn rewrite<B>(response: &mut Response<B>, via: &Via) {
    let (version, status) = (response.version(), response.status());
    let headers = response.headers_mut();
    if status == StatusCode::NO_CONTENT {
        headers.remove(Name::ContentLength); // RFC 9110 §8.6
    }
    // h2 takes a length that is said twice; not every user does.
    if version == Version::HTTP_2 {
        headers.keep_first(Name::ContentLength);
    }
    let upgrade = if status == StatusCode::SWITCHING_PROTOCOLS { upgrade_wanted(headers) } else { None };
    remove_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        insert_upgrade(headers, &protocol);
    }
    via.add(headers, version);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fields::{is_hop_by_hop, named_by_connection};
    use super::*;
    use crate::message::{Field, Fields};

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
                response.headers_mut().append_checked(name.as_bytes(), value.as_bytes());
            }
            let before = response.headers().clone();
            let named = named_by_connection(&before);
            rewrite(&mut response, &Via::new());
            let after = response.headers();
            for name in after.iter().map(Field::written_name).filter(|name| is_hop_by_hop(name)) {
                let switches = status == 101 && (name == b"upgrade" || name == b"connection");
                prop_assert!(switches, "{} survives", name.escape_ascii());
            }
            let via: Vec<_> = after.get_all(Name::Via).collect();
            prop_assert!(str::from_utf8(via.last().unwrap()).unwrap().contains("nsq-gateway-"));
            prop_assert!(status != 204 || !after.contains(Name::ContentLength));
            for name in ["set-cookie", "x-mine"] {
                let values = |fields: &Fields| -> Vec<Vec<u8>> {
                    let named = fields.iter().filter(|field| field.written_name() == name.as_bytes());
                    named.map(|field| field.value().to_vec()).collect()
                };
                let (was, is) = (values(&before), values(after));
                prop_assert!(if named.contains(name.as_bytes()) { is.is_empty() } else { was == is }, "{name}");
            }
        }
    }
}
