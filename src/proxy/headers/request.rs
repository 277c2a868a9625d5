//! A user's request, made into the one that a dataserver gets.

use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::fields::{insert_te_trailers, insert_upgrade, remove_hop_by_hop, upgrade_wanted};
use super::via::Via;
use super::{Client, Trailers};
use crate::proxy::error::Error;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Checks a request and makes it one for a dataserver that speaks HTTP/1.1. Returns what may become of the answer's
/// trailers.
///
/// # Errors
/// When it must not be forwarded.
pub(super) fn rewrite(
    head: &mut Parts,
    body: &Incoming,
    client: &Client,
    via: &Via,
) -> Result<Trailers, Error> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Error::MethodNotAllowed);
    }
    if via.names_us(&head.headers) {
        return Err(Error::Loop);
    }
    check_framing(&head.headers)?;
    let host = settle_target(head)?;
    if head.version == Version::HTTP_2 {
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
    // A length that is not known goes in chunks, also with a GET, of which hyper would drop the body.
    if body.size_hint().exact().is_none() && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // Ours go in after the others' went out: what a client says of itself under these names is no evidence.
    headers.remove(header::FORWARDED);
    headers.insert(X_FORWARDED_FOR, client.forwarded_for.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    match host {
        Some(host) => {
            headers.insert(X_FORWARDED_HOST, host);
        }
        None => {
            headers.remove(X_FORWARDED_HOST);
        }
    }
    via.add(headers, head.version);
    let trailers = match std::mem::replace(&mut head.version, Version::HTTP_11) {
        Version::HTTP_2 => Trailers::Native,
        Version::HTTP_11 if wants_trailers => Trailers::Wanted,
        _ => Trailers::Dropped,
    };
    Ok(trailers)
}

/// What leaves a doubt about where this request ends and the next begins (RFC 9112 §6.1, §6.3) is not forwarded.
fn check_framing(headers: &HeaderMap) -> Result<(), Error> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    // A Content-Length beside it is dropped by hyper, which then closes the connection.
    if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
        return Err(Error::TransferEncoding);
    }
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
