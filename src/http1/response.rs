//! The head of an answer, as a gateway reads it (RFC 9112 §4, §6.3).

use std::mem::MaybeUninit;

use http::{HeaderValue, Method, StatusCode, Version};

use super::body::Length;
use super::head::{FIELDS_ON_STACK, Limits, LongName, append, content_length, options};
use crate::message::{Field, Fields, Name, ResponseHead, ends_with_head};

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not look like one.
    #[error("the head of the answer is malformed")]
    Head,
    /// It is over `limits.head_bytes` or `limits.headers`.
    #[error("the head of the answer is larger than the gateway takes")]
    TooLarge,
    /// Its length is in doubt.
    #[error("where the answer ends cannot be told")]
    Length,
    /// It came before the request went out.
    #[error("it said something that nobody asked for")]
    Unasked,
    /// It switches protocols in the middle of the request, which is not of the new one (RFC 9110 §7.8).
    #[error("it switched protocols before the request was out")]
    Switch,
    /// More interim answers than anybody has a use for.
    #[error("there is no end of interim answers")]
    Interim,
}

/// A head, and what it says of the message.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Box<ResponseHead>,
    pub(super) body: Length,
    /// Bytes of the head.
    pub(super) bytes: usize,
    pub(super) keep_alive: bool,
}

/// Reads the head of an answer to a request with this method from the front of `bytes`; `None` if its end has
/// not come yet.
pub(super) fn parse(bytes: &[u8], method: &Method, limits: Limits) -> Result<Option<Head>, Malformed> {
    let mut on_stack = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
    if limits.fields <= FIELDS_ON_STACK {
        parse_into(bytes, method, on_stack.get_mut(..limits.fields).unwrap_or_default(), limits)
    } else {
        parse_into(bytes, method, &mut vec![MaybeUninit::uninit(); limits.fields], limits)
    }
}

fn parse_into<'b>(
    bytes: &'b [u8],
    method: &Method,
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
    limits: Limits,
) -> Result<Option<Head>, Malformed> {
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = match config.parse_response_with_uninit_headers(&mut response, bytes, fields) {
        Ok(httparse::Status::Complete(parsed)) if parsed <= limits.bytes => parsed,
        Ok(httparse::Status::Partial) if bytes.len() <= limits.bytes => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLarge),
        Err(_) => return Err(Malformed::Head),
    };
    let mut parts = ResponseHead::spare();
    parts.status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Head)?;
    parts.version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = response.reason.unwrap_or_default();
    if !reason.is_empty() && parts.status.canonical_reason() != Some(reason) {
        let reason = hyper::ext::ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Malformed::Head)?;
        parts.extensions.insert(reason);
    }
    append(response.headers, &mut parts.headers).map_err(|LongName| Malformed::Head)?;
    let mut says = Says::default();
    for field in parts.headers.iter() {
        says.hear(field, &parts.headers)?;
    }
    let body = says.length(&mut parts, method)?;
    // What says that it has a body where there can be none may send one, and late: the next answer would be read from that.
    let is_over = parts.status != StatusCode::NO_CONTENT || !says.has_a_body();
    let keep_alive = is_over
        && body != Length::UntilClose
        && !says.close
        && (parts.version == Version::HTTP_11 || says.keep_alive);
    Ok(Some(Head { parts, body, bytes: parsed, keep_alive }))
}

/// What the fields say of the message and its connection.
#[derive(Default)]
struct Says {
    content_length: Option<Said>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

/// What Content-Length says.
#[derive(Clone, Copy)]
enum Said {
    Once(u64),
    /// The same in several fields.
    Again(u64),
    /// No number, or several.
    Nonsense,
}

impl Says {
    /// Takes in one of the fields.
    fn hear(&mut self, field: Field<'_>, fields: &Fields) -> Result<(), Malformed> {
        let value = field.value();
        match field.name() {
            Some(Name::ContentLength) => {
                self.content_length = Some(match (self.content_length, content_length(value)) {
                    (None, Some(length)) => Said::Once(length),
                    (Some(Said::Once(_) | Said::Again(_)), Some(length))
                        if fields.get(Name::ContentLength) == Some(value) =>
                    {
                        Said::Again(length)
                    }
                    _ => Said::Nonsense,
                });
            }
            Some(Name::TransferEncoding) => {
                // Another coding hides where the answer ends.
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed::Length);
                }
                self.chunked = true;
            }
            Some(Name::Connection) => {
                for option in options(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether there are bytes behind the head, by what its fields say.
    fn has_a_body(&self) -> bool {
        self.chunked || matches!(self.content_length, Some(Said::Once(1..) | Said::Again(1..)))
    }

    /// Where the body ends. Of two fields that say so the one that counts is left.
    fn length(&self, parts: &mut ResponseHead, method: &Method) -> Result<Length, Malformed> {
        if self.chunked {
            // Chunks win over a length (RFC 9112 §6.3); HTTP/1.0 has none.
            if self.content_length.is_some() {
                parts.headers.remove(Name::ContentLength);
            }
            if parts.version == Version::HTTP_10 {
                return Err(Malformed::Length);
            }
        }
        let said = match self.content_length.filter(|_| !self.chunked) {
            None => None,
            Some(Said::Once(length)) => Some(length),
            Some(Said::Again(length)) => {
                // From here on it is said once.
                parts.headers.insert(Name::ContentLength, &HeaderValue::from(length));
                Some(length)
            }
            Some(Said::Nonsense) => return Err(Malformed::Length),
        };
        if ends_with_head(method == Method::HEAD, parts.status) {
            return Ok(Length::Known(0));
        }
        Ok(match said {
            _ if self.chunked => Length::Chunked,
            Some(length) => Length::Known(length),
            None => Length::UntilClose,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 1024, fields: 8 };

    fn head(text: &str) -> Result<Head, Malformed> {
        parse(text.as_bytes(), &Method::GET, LIMITS).map(|head| head.expect("it is whole"))
    }

    #[test]
    fn http_31_chunks_win_over_a_length() {
        let head =
            head("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: Chunked\r\n\r\n").unwrap();
        assert_eq!(head.body, Length::Chunked);
        assert!(!head.parts.headers.contains(Name::ContentLength));
    }

    #[test]
    fn http_32_33_an_answer_without_a_certain_end_is_none() {
        for fields in [
            "content-length: 5, 5",
            "content-length: -1",
            "content-length: 4\r\ncontent-length: 5",
            "content-length: 4\r\ncontent-length: 5\r\ncontent-length: 4",
            "transfer-encoding: gzip",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert_eq!(head(&answer).unwrap_err(), Malformed::Length, "{fields}");
        }
        assert_eq!(
            head("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap_err(),
            Malformed::Length
        );
        for junk in
            ["<html>", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 99 Low\r\n\r\n", "HTTP/1.1 200 OK\r\na\r\n\r\n"]
        {
            assert_eq!(head(junk).unwrap_err(), Malformed::Head, "{junk}");
        }
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "a".repeat(1024));
        assert_eq!(head(&long).unwrap_err(), Malformed::TooLarge);
    }

    #[test]
    fn http_30_what_has_no_body_has_none_whatever_it_says() {
        for status in ["204 No Content", "304 Not Modified", "103 Early Hints"] {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n");
            assert_eq!(head(&answer).unwrap().body, Length::Known(0), "{status}");
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let head = parse(answer, &Method::HEAD, LIMITS).unwrap().unwrap();
        assert_eq!(
            (head.body, head.parts.headers.get(Name::ContentLength)),
            (Length::Known(0), Some(&b"5"[..]))
        );
    }

    #[test]
    fn a_connection_is_kept_where_both_sides_can_tell_the_end() {
        assert!(head("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap().keep_alive);
        assert!(!head("HTTP/1.1 200 OK\r\n\r\n").unwrap().keep_alive);
        assert!(
            !head("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap().keep_alive
        );
        assert!(!head("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap().keep_alive);
        assert!(
            head("HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n")
                .unwrap()
                .keep_alive
        );
    }

    #[test]
    fn a_reason_of_the_dataservers_own_is_kept() {
        let reason = |line: &str| {
            let head = head(&format!("{line}\r\n\r\n")).unwrap();
            head.parts.extensions.get::<hyper::ext::ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
        };
        assert_eq!(reason("HTTP/1.1 200 Fine"), Some(b"Fine".to_vec()));
        assert_eq!((reason("HTTP/1.1 200 OK"), reason("HTTP/1.1 200 ")), (None, None));
    }

    proptest! {
        /// Where the body ends follows from RFC 9112 §6.3, or there is no answer.
        #[test]
        fn an_answer_that_is_taken_says_where_its_body_ends(
            status in prop::sample::select(vec!["200", "204", "304", "103", "404"]),
            version in prop::sample::select(vec!["1.0", "1.1"]),
            method in prop::sample::select(vec![Method::GET, Method::HEAD]),
            fields in prop::collection::vec(
                (prop::sample::select(vec!["Content-Length", "content-length", "Transfer-Encoding", "x"]),
                 prop::sample::select(vec!["5", "6", "5, 5", "+5", "", "chunked", "gzip, chunked", "identity"])),
                0..4),
        ) {
            let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
            let values = |name: &str| -> Vec<&str> {
                fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect()
            };
            let (mut lengths, codings) = (values("content-length"), values("transfer-encoding"));
            lengths.dedup();
            let framing = match (&lengths[..], &codings[..]) {
                (_, ["chunked"]) if version == "1.1" => Some(Length::Chunked),
                ([], []) => Some(Length::UntilClose),
                (["5"], []) => Some(Length::Known(5)),
                (["6"], []) => Some(Length::Known(6)),
                _ => None,
            };
            let bodiless = method == Method::HEAD || ["204", "304", "103"].contains(&status);
            let expected = framing.map(|framing| if bodiless { Length::Known(0) } else { framing });
            let whole = format!("HTTP/{version} {status} X\r\n{lines}\r\n");
            match (parse(whole.as_bytes(), &method, LIMITS), expected) {
                (Ok(Some(head)), Some(expected)) => {
                    prop_assert_eq!((head.body, head.bytes), (expected, whole.len()));
                    let both = head.parts.headers.contains(Name::ContentLength)
                        && head.parts.headers.contains(Name::TransferEncoding);
                    prop_assert!(!both && head.parts.headers.get_all(Name::ContentLength).count() <= 1);
                    prop_assert!(head.body != Length::UntilClose || !head.keep_alive);
                    for end in 0..whole.len() {
                        prop_assert!(matches!(parse(&whole.as_bytes()[..end], &method, LIMITS), Ok(None)));
                    }
                }
                (Err(Malformed::Length), None) => {}
                (parsed, expected) => prop_assert!(false, "{:?} instead of {:?} for {:?}", parsed, expected, whole),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &Method::GET, LIMITS);
            let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
            answer.extend_from_slice(&bytes);
            let _ = parse(&answer, &Method::GET, LIMITS);
        }
    }
}
