//! What a request is for: its host and its target (RFC 9112 §3.2, RFC 9113 §8.3.1).

use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Method, Version};

use crate::message::{Fields, Name, RequestHead, Response};
use crate::proxy::error::Error;

/// The methods that are forwarded, of those that everybody knows.
pub(in crate::proxy) const ALLOW: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");

/// Brings the target into origin form and the host into the `Host` field.
///
/// # Errors
/// When it is not certain whom the request is for.
pub(super) fn settle(head: &mut RequestHead) -> Result<(), Error> {
    let field = head.headers.get(Name::Host);
    if head.headers.count(Name::Host) > 1 {
        return Err(Error::BadRequest("there is more than one Host"));
    }
    if field.is_none() && head.version == Version::HTTP_11 {
        return Err(Error::BadRequest("there is no Host"));
    }
    if field.is_some_and(|host| !is_host(host)) {
        return Err(Error::BadRequest("the Host is not one"));
    }
    if head.uri.authority().is_some() && head.uri.scheme().is_none() && head.version != Version::HTTP_2 {
        return Err(Error::BadRequest("the target is neither a path nor a URL"));
    }
    // The target's own authority wins.
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).ok().filter(|host| is_host(host.as_bytes()));
        let host = host.ok_or(Error::BadRequest("the target's host is not one"))?;
        head.headers.insert(Name::Host, &host);
        head.uri = Uri::from(path(head)?);
    }
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Error::BadRequest("only OPTIONS has the target *"));
    }
    Ok(())
}

/// What an absolute target has after its authority, or what `:path` says.
fn path(head: &RequestHead) -> Result<PathAndQuery, Error> {
    const MALFORMED: Error = Error::BadRequest("the target's path is not one");
    let Some(path) = head.uri.path_and_query() else { return Ok(PathAndQuery::from_static("/")) };
    if !path.as_str().starts_with('?') {
        return Ok(path.clone());
    }
    // A URL may leave out its path, an HTTP/2 request may not (RFC 9112 §3.2.1, RFC 9113 §8.3.1).
    if head.version == Version::HTTP_2 {
        return Err(MALFORMED);
    }
    PathAndQuery::try_from(format!("/{}", path.as_str())).map_err(|_| MALFORMED)
}

/// Counts down the gateways that an OPTIONS may still pass (RFC 9110 §7.6.2). Returns whether this one is the
/// last, and has to answer it.
pub(super) fn is_for_us(head: &mut RequestHead) -> bool {
    if head.method != Method::OPTIONS {
        return false;
    }
    let Some(left) = max_forwards(&head.headers) else { return false };
    if let Some(less) = left.checked_sub(1) {
        head.headers.insert(Name::MaxForwards, &HeaderValue::from(less));
    }
    left == 0
}

fn max_forwards(headers: &Fields) -> Option<u64> {
    let text = str::from_utf8(headers.get(Name::MaxForwards)?).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The answer to an OPTIONS that is for us.
pub(super) fn options() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(Name::Allow, &ALLOW);
    response
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2, RFC 3986 §3.2.2); a user name before an `@` is not for HTTP. HTTP/1.1
/// has an empty one where the target has none.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.split_first() {
        Some((b'[', rest)) => {
            let Some(end) = rest.iter().position(|b| *b == b']') else { return false };
            let (literal, rest) = rest.split_at_checked(end).unwrap_or_default();
            let is_literal =
                std::str::from_utf8(literal).is_ok_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
            if !is_literal {
                return false;
            }
            match rest.get(1..).unwrap_or_default().split_first() {
                None => (&[][..], &[][..]),
                Some((b':', port)) => (&[][..], port),
                Some(_) => return false,
            }
        }
        _ => match host.iter().position(|b| *b == b':').and_then(|colon| host.split_at_checked(colon)) {
            Some((name, port)) => (name, port.get(1..).unwrap_or_default()),
            None => (host, &[][..]),
        },
    };
    is_name(name) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

fn is_name(name: &[u8]) -> bool {
    let is_plain = |b: &u8| PLAIN.get(usize::from(*b)).is_some_and(|plain| *plain);
    let mut parts = name.split(|b| *b == b'%');
    parts.next().is_some_and(|first| first.iter().all(is_plain))
        && parts.all(|part| match part.split_at_checked(2) {
            Some((code, rest)) => code.iter().all(u8::is_ascii_hexdigit) && rest.iter().all(is_plain),
            None => false,
        })
}

/// Whether a byte stands for itself in a name: the unreserved and the sub-delims of RFC 3986 §2. A table, since every
/// request is asked.
#[expect(clippy::indexing_slicing, reason = "at compile time, where out of bounds is an error")]
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut rest: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=";
    while let [first, others @ ..] = rest {
        plain[*first as usize] = true;
        rest = others;
    }
    plain
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_01_a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in ["", "a", "a:80", "a:", "a.b-c_d~e", "10.0.0.1:9000", "[::1]", "[::1]:80", "a%20b", "a,b"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a:x", "a:80:81", "[::1", "::1", "[::1]80", "[a]", "a%zz", "a%2", "u@a", "a/b", "a b", "a:123456",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
