//! A dataserver's answer, made into the one that the user gets.

use http::{Response, StatusCode, Version, header};

use super::fields::{insert_upgrade, remove_hop_by_hop, upgrade_wanted};
use super::via::Via;

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
