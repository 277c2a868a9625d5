//! A dataserver's answer, made into the one that the user gets.

use http::{HeaderValue, Response, StatusCode, Version, header};

use super::Trailers;
use super::fields::{insert_upgrade, is_grpc, remove_hop_by_hop, upgrade_wanted};
use super::via::Via;

/// How every gRPC call ends. hyper sends only those trailers of HTTP/1.1 that were named in the head.
const GRPC_TRAILERS: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

/// Removes what was for the connection to the dataserver alone.
pub(super) fn rewrite<B>(response: &mut Response<B>, via: &Via, trailers: Trailers) {
    let (version, status) = (response.version(), response.status());
    let headers = response.headers_mut();
    // Chunks win over a length (RFC 9112 §6.3); hyper's server would take both for a fault of ours.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let upgrade = if status == StatusCode::SWITCHING_PROTOCOLS { upgrade_wanted(headers) } else { None };
    remove_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        insert_upgrade(headers, protocol);
    }
    let from_http2 = version == Version::HTTP_2;
    if trailers == Trailers::Wanted
        && from_http2
        && is_grpc(headers)
        && !headers.contains_key(header::TRAILER)
    {
        headers.insert(header::TRAILER, GRPC_TRAILERS);
    }
    via.add(headers, version);
}
