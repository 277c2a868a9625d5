//! A dataserver's answer, made into the one that the user gets.

use http::{Response, header};

use super::fields::remove_hop_by_hop;
use super::via::Via;

/// Removes what was for the connection to the dataserver alone.
pub(super) fn rewrite<B>(response: &mut Response<B>, via: &Via) {
    let version = response.version();
    let headers = response.headers_mut();
    // Chunks win over a length (RFC 9112 §6.3); hyper's server would take both for a fault of ours.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers);
    via.add(headers, version);
}
