//! The head of an answer, and how its body is framed (RFC 9112 §6, RFC 9110 §8.6).

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode, Version};

use super::head::{Head, content_length, options};
use super::output::{Framing, write_field};
use crate::message::{Name, ResponseHead, ends_with_head};

/// What of a request its answer depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) is_head: bool,
    pub(super) takes_trailers: bool,
    /// Whether the user would use the connection again, and may.
    pub(super) keep_alive: bool,
}

impl Asked {
    pub(super) fn of(head: &Head) -> Self {
        Self {
            version: head.parts.version,
            is_head: head.parts.method == Method::HEAD,
            takes_trailers: head.takes_trailers,
            keep_alive: head.keep_alive,
        }
    }

    /// What can be said of a request that was refused.
    pub(super) fn unknown() -> Self {
        Self { version: Version::HTTP_11, is_head: false, takes_trailers: false, keep_alive: false }
    }
}

/// A head was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
}

/// Writes the head of an answer whose body, as far as is known, has `length` bytes.
///
/// # Errors
/// When the answer contradicts itself.
pub(super) fn write_head(
    parts: &ResponseHead,
    length: Option<u64>,
    asked: Asked,
    out: &mut Vec<u8>,
) -> Result<Written, Contradiction> {
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;

    // We speak 1.1, also to a user of 1.0 (RFC 9110 §2.5).
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    match parts.extensions.get::<hyper::ext::ReasonPhrase>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
    let (mut said, mut closes, mut has_date) = (None, false, false);
    for field in parts.headers.iter() {
        match field.name() {
            Some(Name::Connection) => {
                closes |= wants_close(field.value());
                continue;
            }
            Some(Name::TransferEncoding) => continue,
            Some(Name::ContentLength) => said = said.or(Some(field.value())),
            Some(Name::Date) => has_date = true,
            _ => {}
        }
        out.extend_from_slice(field.line());
    }
    let framing = framing(parts.status, said, length, asked)?;
    let keep_alive = asked.keep_alive && framing != Framing::UntilClose && !closes;
    match framing {
        Framing::Known(length) if said.is_none() => {
            // Writing to a Vec does not fail.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::NoBody | Framing::Known(_) | Framing::UntilClose => {}
    }
    if switches {
        out.extend_from_slice(b"connection: upgrade\r\n");
    } else if !keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    } else if asked.version == Version::HTTP_10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    // Who passes on an answer without a date says when it came (RFC 9110 §6.6.1).
    if !switches && !has_date {
        write_date(out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(Written { framing, keep_alive: keep_alive || switches })
}

/// An answer that says one thing and is another.
#[derive(Debug, thiserror::Error)]
#[error("the answer's Content-Length is not what its body is")]
pub(super) struct Contradiction;

fn framing(
    status: StatusCode,
    said: Option<&[u8]>,
    length: Option<u64>,
    asked: Asked,
) -> Result<Framing, Contradiction> {
    if ends_with_head(asked.is_head, status) {
        return Ok(Framing::NoBody);
    }
    let said = match said {
        Some(value) => Some(content_length(value).ok_or(Contradiction)?),
        None => None,
    };
    match (said, length) {
        (Some(said), Some(length)) if said != length => Err(Contradiction),
        (Some(length), _) | (None, Some(length)) => Ok(Framing::Known(length)),
        (None, None) if asked.version == Version::HTTP_10 => Ok(Framing::UntilClose),
        (None, None) => Ok(Framing::Chunked),
    }
}

fn wants_close(connection: &[u8]) -> bool {
    options(connection).any(|option| option.eq_ignore_ascii_case(b"close"))
}

fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        /// The second that was written last, and how it reads.
        static DATE: std::cell::RefCell<(u64, String)> = const { std::cell::RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    DATE.with_borrow_mut(|(known, text)| {
        if *known != second {
            *known = second;
            *text = httpdate::fmt_http_date(now);
        }
        write_field("date", text.as_bytes(), out);
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use crate::message::Response;

    use super::*;

    const ASKED: Asked =
        Asked { version: Version::HTTP_11, is_head: false, takes_trailers: false, keep_alive: true };

    fn write(status: u16, fields: &[(&str, &str)], length: Option<u64>, asked: Asked) -> (String, Written) {
        let mut response = http::Response::builder().status(status).header("date", "now");
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut out = Vec::new();
        let response = Response::from(response.body(()).unwrap());
        let written = write_head(&response.into_parts().0, length, asked, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), written)
    }

    #[test]
    fn http_30_a_length_is_passed_on_and_never_invented() {
        let head = Asked { is_head: true, ..ASKED };
        for (status, asked) in [(200, head), (304, ASKED), (304, head)] {
            let (text, written) = write(status, &[("content-length", "7")], None, asked);
            assert!(text.contains("content-length: 7\r\n") && written.framing == Framing::NoBody, "{text}");
        }
        for (status, asked) in [(200, head), (304, ASKED), (204, ASKED)] {
            let (text, _) = write(status, &[], Some(0), asked);
            assert_eq!(
                text.lines().filter(|line| line.contains("length") || line.contains("chunked")).count(),
                0
            );
        }
    }

    #[test]
    fn http_25_a_length_that_is_not_known_is_framed_for_the_version() {
        let (text, written) = write(200, &[], None, ASKED);
        assert!(text.ends_with("transfer-encoding: chunked\r\n\r\n") && written.keep_alive, "{text}");
        let http10 = Asked { version: Version::HTTP_10, ..ASKED };
        let (text, written) = write(200, &[], None, http10);
        assert!(
            text.ends_with("connection: close\r\n\r\n") && written.framing == Framing::UntilClose,
            "{text}"
        );
        let (text, written) = write(200, &[], Some(3), http10);
        assert!(
            text.contains("content-length: 3\r\n") && text.contains("connection: keep-alive\r\n"),
            "{text}"
        );
        assert!(written.keep_alive);
    }

    #[test]
    fn an_answer_that_closes_says_so_once() {
        let (text, written) = write(400, &[("connection", "close")], Some(0), ASKED);
        assert_eq!(text.matches("connection: close").count(), 1);
        assert!(!written.keep_alive);
        let (text, written) = write(200, &[], Some(0), Asked { keep_alive: false, ..ASKED });
        assert!(text.contains("connection: close\r\n") && !written.keep_alive);
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_not_begun() {
        let mut head = ResponseHead::default();
        head.headers.append(Name::ContentLength, &HeaderValue::from(5));
        assert!(write_head(&head, Some(4), ASKED, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_date_is_added_where_there_is_none() {
        let mut out = Vec::new();
        write_head(&Response::new(()).into_parts().0, Some(0), ASKED, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let date = text.lines().find_map(|line| line.strip_prefix("date: ")).unwrap();
        assert!(httpdate::parse_http_date(date).is_ok(), "{text}");
    }
}
