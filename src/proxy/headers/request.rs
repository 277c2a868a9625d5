//! A user's request, made into the one that a dataserver gets.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version, header};

use super::fields::{insert_te_trailers, insert_upgrade, remove_hop_by_hop, upgrade_wanted};
use super::origin::Origin;
use super::via::Via;
use super::{Trailers, target};
use crate::addr::Networks;
use crate::proxy::error::Error;

/// Checks a request and makes it one for a dataserver that speaks HTTP/1.1. Returns what may become of the answer's
/// trailers.
///
/// # Errors
/// When it must not be forwarded.
pub(super) fn rewrite(
    head: &mut Parts,
    origin: &Origin,
    trusted_proxies: &Networks,
    via: &Via,
) -> Result<Trailers, Error> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Error::MethodNotAllowed);
    }
    if via.names_us(&head.headers) {
        return Err(Error::Loop);
    }
    let host = target::settle(head)?;
    if head.version == Version::HTTP_2 {
        // h2 holds the body against the length; said twice, it would be two lengths to the next.
        if head.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
            return Err(Error::BadRequest("there is more than one Content-Length"));
        }
        join_cookies(&mut head.headers);
    }

    let headers = &mut head.headers;
    let upgrade = if head.version == Version::HTTP_11 { upgrade_wanted(headers) } else { None };
    let wants_trailers = remove_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        insert_upgrade(headers, protocol);
    }
    if wants_trailers && head.version != Version::HTTP_10 {
        insert_te_trailers(headers);
    }
    // Ours go in after the others' went out: no `Connection` field can name them.
    origin.tell(headers, host, trusted_proxies);
    via.add(headers, head.version);
    let trailers = match std::mem::replace(&mut head.version, Version::HTTP_11) {
        Version::HTTP_2 => Trailers::Kept,
        Version::HTTP_11 if wants_trailers => Trailers::Kept,
        _ => Trailers::Dropped,
    };
    Ok(trailers)
}

/// HTTP/2 may split a cookie into several fields; HTTP/1.1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Values that are fine one by one are fine joined.
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}
