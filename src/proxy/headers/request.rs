//! A user's request, made into the one that a dataserver gets.

use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Version, header};
use http_body::Body as _;

use super::fields::{insert_upgrade, remove_hop_by_hop, upgrade_wanted};
use super::origin::Origin;
use super::via::Via;
use crate::proxy::error::Error;
use crate::proxy::incoming::Incoming;

/// Checks a request and makes it one for a dataserver.
///
/// # Errors
/// When it must not be forwarded.
pub(super) fn rewrite(head: &mut Parts, body: &Incoming, origin: &Origin, via: &Via) -> Result<(), Error> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Error::MethodNotAllowed);
    }
    if via.names_us(&head.headers) {
        return Err(Error::Loop);
    }
    let host = settle_target(head)?;
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }

    let headers = &mut head.headers;
    let upgrade = if head.version == Version::HTTP_11 { upgrade_wanted(headers) } else { None };
    remove_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        insert_upgrade(headers, protocol);
    }
    // A length that is not known goes in chunks, also with a GET, of which hyper would drop the body.
    if body.size_hint().exact().is_none() && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // Ours go in after the others' went out: no `Connection` field can name them.
    origin.tell(headers, host);
    via.add(headers, head.version);
    head.version = Version::HTTP_11;
    Ok(())
}

/// Brings the target into origin form and the host into the `Host` field (RFC 9112 §3.2, RFC 9113 §8.3.1).
/// Returns that host.
fn settle_target(head: &mut Parts) -> Result<Option<HeaderValue>, Error> {
    let mut fields = head.headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Error::BadRequest("there is more than one Host"));
    }
    if field.is_none() && head.version == Version::HTTP_11 {
        return Err(Error::BadRequest("there is no Host"));
    }
    if field.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(Error::BadRequest("the Host is not one"));
    }
    if head.uri.authority().is_some() && head.uri.scheme().is_none() && head.version != Version::HTTP_2 {
        return Err(Error::BadRequest("the target is neither a path nor a URL"));
    }
    let host = match head.uri.authority() {
        None => field.cloned(),
        // The target's own authority wins.
        Some(authority) => {
            let host = HeaderValue::from_str(authority.as_str()).ok().filter(|host| is_host(host.as_bytes()));
            let host = host.ok_or(Error::BadRequest("the target's host is not one"))?;
            head.headers.insert(header::HOST, host.clone());
            let path = head.uri.path_and_query().cloned();
            head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
            Some(host)
        }
    };
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Error::BadRequest("only OPTIONS has the target *"));
    }
    Ok(host)
}

/// What a host and a port are made of (RFC 3986 §3.2.2); a user name before an `@` is not for HTTP.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(b))
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
