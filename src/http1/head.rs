//! The head of a request, and what it says of its body and its connection (RFC 9112 §3, §6, §9).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};

use super::body::Length;
use crate::message::{Field, Fields, Name, RequestHead};

/// Fields that a head can have without memory for them being asked for.
pub(super) const FIELDS_ON_STACK: usize = 100;

/// The longest name that [`HeaderName`](http::HeaderName) holds.
const MAX_NAME: usize = 65_535;

/// The longest target that [`Uri`] holds.
const MAX_TARGET: usize = 65_534;

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a head, or of the trailers.
    pub bytes: usize,
    /// Fields in a head, or in the trailers.
    pub fields: usize,
}

/// Why a request is not taken. What follows on its connection cannot be told from it, so that it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first line is not a request's.
    #[error("the request line is malformed")]
    RequestLine,
    /// The target is none that HTTP has.
    #[error("the target of the request is malformed")]
    Target,
    /// The version is not 1.0 or 1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// A field's name is not a token, or is folded, or not followed by its colon.
    #[error("the name of a field is malformed")]
    FieldName,
    /// A field's value has a control character.
    #[error("the value of a field is malformed")]
    FieldValue,
    /// Lines end otherwise than lines do.
    #[error("a line of the head does not end as it should")]
    LineEnd,
    /// The request line alone is over `limits.head_bytes`.
    #[error("the target of the request is longer than the gateway takes")]
    TargetTooLong,
    /// The head is over `limits.head_bytes`.
    #[error("the head of the request is longer than the gateway takes")]
    TooLong,
    /// The head has more than `limits.headers` fields.
    #[error("the request has more fields than the gateway takes")]
    TooManyFields,
    /// Content-Length is not one number.
    #[error("the Content-Length is malformed, or there is more than one")]
    ContentLength,
    /// Content-Length and Transfer-Encoding.
    #[error("the request has both a Content-Length and a Transfer-Encoding")]
    TwoLengths,
    /// Transfer-Encoding in HTTP/1.0, which has none.
    #[error("a request of HTTP/1.0 has no Transfer-Encoding")]
    TransferEncodingInHttp10,
    /// A transfer coding that hides where the body ends.
    #[error("a request's Transfer-Encoding can only be chunked")]
    TransferEncoding,
    /// The head did not come in time.
    #[error("the head of the request did not come in time")]
    TimedOut,
}

impl Refusal {
    /// What the user is told.
    pub fn status(self) -> StatusCode {
        match self {
            Self::RequestLine
            | Self::Target
            | Self::FieldName
            | Self::FieldValue
            | Self::LineEnd
            | Self::ContentLength
            | Self::TwoLengths
            | Self::TransferEncodingInHttp10 => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLong | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
        }
    }

    fn of(error: httparse::Error, request: &httparse::Request<'_, '_>, bytes: &[u8]) -> Self {
        match error {
            // A space too many in the request line is no version.
            httparse::Error::Version if !ends_in_version(bytes) => Self::RequestLine,
            httparse::Error::HeaderName => Self::FieldName,
            httparse::Error::HeaderValue => Self::FieldValue,
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Version => Self::Version,
            httparse::Error::NewLine => Self::LineEnd,
            httparse::Error::Token if request.method.is_some() => Self::Target,
            httparse::Error::Token | httparse::Error::Status => Self::RequestLine,
        }
    }
}

/// A head, and what it says of the message.
pub(super) struct Head {
    pub(super) parts: Box<RequestHead>,
    pub(super) body: Length,
    /// Bytes of the head.
    pub(super) bytes: usize,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) takes_trailers: bool,
}

/// Reads a head from the front of `bytes`; `None` if its end has not come yet.
pub(super) fn parse(bytes: &[u8], limits: Limits) -> Result<Option<Head>, Refusal> {
    let mut on_stack = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
    if limits.fields <= FIELDS_ON_STACK {
        parse_into(bytes, on_stack.get_mut(..limits.fields).unwrap_or_default(), limits)
    } else {
        parse_into(bytes, &mut vec![MaybeUninit::uninit(); limits.fields], limits)
    }
}

fn parse_into<'b>(
    bytes: &'b [u8],
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
    limits: Limits,
) -> Result<Option<Head>, Refusal> {
    let mut request = httparse::Request::new(&mut []);
    let parsed = match request.parse_with_uninit_headers(bytes, fields) {
        Ok(httparse::Status::Complete(parsed)) => parsed,
        Ok(httparse::Status::Partial) if bytes.len() <= limits.bytes => return Ok(None),
        Ok(httparse::Status::Partial) if request.version.is_none() => return Err(Refusal::TargetTooLong),
        Ok(httparse::Status::Partial) => return Err(Refusal::TooLong),
        Err(error) => return Err(Refusal::of(error, &request, bytes)),
    };
    if parsed > limits.bytes {
        return Err(Refusal::TooLong);
    }
    let mut parts = RequestHead::spare();
    let method = request.method.ok_or(Refusal::RequestLine)?;
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::RequestLine)?;
    let target = request.path.ok_or(Refusal::RequestLine)?;
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    let uri = Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes()));
    parts.uri = uri.map_err(|_| Refusal::Target)?;
    if parts.method == Method::OPTIONS && parts.uri.authority().is_some() && is_only_a_host(target) {
        parts.uri = about_the_host(std::mem::take(&mut parts.uri))?;
    }
    parts.version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };

    append(request.headers, &mut parts.headers).map_err(|LongName| Refusal::FieldName)?;
    let mut says = Says::default();
    for field in parts.headers.iter() {
        says.hear(field)?;
    }
    let body = says.length(parts.version)?;
    Ok(Some(Head {
        body,
        bytes: parsed,
        keep_alive: !says.close && (parts.version == Version::HTTP_11 || says.keep_alive),
        expects_continue: says.expects_continue && parts.version == Version::HTTP_11,
        takes_trailers: says.takes_trailers && parts.version == Version::HTTP_11,
        parts,
    }))
}

/// A name is longer than [`HeaderName`](http::HeaderName) holds, which others make of it.
#[derive(Debug)]
pub(super) struct LongName;

/// Adds fields that httparse found.
pub(super) fn append(found: &[httparse::Header<'_>], to: &mut Fields) -> Result<(), LongName> {
    for field in found {
        if field.name.len() > MAX_NAME {
            return Err(LongName);
        }
        to.append_checked(field.name.as_bytes(), field.value);
    }
    Ok(())
}

/// Whether a target is a URL that says nothing after its authority. To [`Uri`] that is the same as one that says `/`.
fn is_only_a_host(target: &str) -> bool {
    target.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?', '#']))
}

/// What such a target is about, in OPTIONS (RFC 9112 §3.2.4).
fn about_the_host(target: Uri) -> Result<Uri, Refusal> {
    let mut parts = target.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).map_err(|_| Refusal::Target)
}

/// Whether the first line is a request's, of whatever version.
fn ends_in_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end();
    let mut words = line.split(|b| *b == b' ');
    let version = words.nth(2).unwrap_or_default();
    words.next().is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// What the fields say of the message and its connection.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that a field says or does not say")]
struct Says {
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    takes_trailers: bool,
}

impl Says {
    fn hear(&mut self, field: Field<'_>) -> Result<(), Refusal> {
        let value = field.value();
        match field.name() {
            Some(Name::ContentLength) => {
                let length = content_length(value).ok_or(Refusal::ContentLength)?;
                if self.content_length.replace(length).is_some() {
                    return Err(Refusal::ContentLength);
                }
            }
            Some(Name::TransferEncoding) => {
                // "chunked" twice is two codings, of which the first is no last one.
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::TransferEncoding);
                }
                self.chunked = true;
            }
            Some(Name::Connection) => {
                for option in options(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            Some(Name::Expect) => self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            Some(Name::Te) => {
                self.takes_trailers |= options(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §6.3, and of what it leaves to the server the strict side.
    fn length(&self, version: Version) -> Result<Length, Refusal> {
        match (self.chunked, self.content_length) {
            (true, _) if version == Version::HTTP_10 => Err(Refusal::TransferEncodingInHttp10),
            (true, Some(_)) => Err(Refusal::TwoLengths),
            (true, None) => Ok(Length::Chunked),
            (false, length) => Ok(Length::Known(length.unwrap_or(0))),
        }
    }
}

pub(super) fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// `1*DIGIT` (RFC 9110 §8.6), and nothing else that a number could be written as.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 1024, fields: 8 };

    fn refusal(head: &str) -> Refusal {
        match parse(head.as_bytes(), LIMITS) {
            Err(refusal) => refusal,
            Ok(Some(_)) => panic!("{head:?} was taken"),
            Ok(None) => panic!("{head:?} is not whole"),
        }
    }

    fn head(fields: &str) -> Head {
        parse(format!("POST /a?b HTTP/1.1\r\nhost: x\r\n{fields}\r\nrest").as_bytes(), LIMITS)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_head_is_read_to_its_end_and_no_further() {
        let head = head("a: 1\r\nA:\t2 \r\n");
        assert_eq!((head.parts.method, head.parts.uri.to_string()), (Method::POST, "/a?b".to_owned()));
        assert_eq!(
            head.parts.headers.iter().skip(1).map(Field::line).collect::<Vec<_>>(),
            [b"a: 1\r\n", b"a: 2\r\n"]
        );
        assert_eq!(head.bytes, "POST /a?b HTTP/1.1\r\nhost: x\r\na: 1\r\nA:\t2 \r\n\r\n".len());
        assert!(head.keep_alive && head.body == Length::Known(0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bytes, expected) in [
            ("\0", Refusal::RequestLine),
            ("GET / HTTP/1.2\r\n\r\n", Refusal::Version),
            ("GET /a b HTTP/1.1\r\n\r\n", Refusal::RequestLine),
            ("GET / HTTP/1.10\r\n\r\n", Refusal::LineEnd),
            ("GET /\x7f HTTP/1.1\r\n\r\n", Refusal::Target),
            ("GET / HTTP/1.1\r\na b: 1\r\n\r\n", Refusal::FieldName),
            ("GET / HTTP/1.1\r\na : 1\r\n\r\n", Refusal::FieldName),
            ("GET / HTTP/1.1\r\na: 1\r\n 2\r\n\r\n", Refusal::FieldName),
            ("GET / HTTP/1.1\r\na: \x01\r\n\r\n", Refusal::FieldValue),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", Refusal::ContentLength),
            (
                "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                Refusal::TwoLengths,
            ),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", Refusal::TransferEncodingInHttp10),
        ] {
            assert_eq!(refusal(bytes), expected, "{bytes:?}");
        }
        for coding in ["gzip, chunked", "chunked, chunked", "xchunked", "identity", "\"chunked\"", ""] {
            let head = format!("POST / HTTP/1.1\r\ntransfer-encoding: {coding}\r\n\r\n");
            assert_eq!(refusal(&head), Refusal::TransferEncoding, "{coding}");
        }
        for length in ["+5", "-5", "5,5", "0x5", "", "5 5", "99999999999999999999999"] {
            let head = format!("POST / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n");
            assert_eq!(refusal(&head), Refusal::ContentLength, "{length}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_its_end_comes() {
        assert_eq!(refusal(&format!("GET /{}", "a".repeat(1024))), Refusal::TargetTooLong);
        assert_eq!(refusal(&format!("GET / HTTP/1.1\r\na: {}", "a".repeat(1024))), Refusal::TooLong);
        assert_eq!(
            refusal(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: 1\r\n".repeat(9))),
            Refusal::TooManyFields
        );
        let many = Limits { bytes: 10_000, fields: 200 };
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "a: 1\r\n".repeat(200));
        assert_eq!(parse(head.as_bytes(), many).unwrap().unwrap().parts.headers.len(), 200);
        let large = Limits { bytes: 1 << 20, fields: 8 };
        for (name, is_taken) in [(MAX_NAME, true), (MAX_NAME + 1, false)] {
            let head = format!("GET / HTTP/1.1\r\n{}: 1\r\n\r\n", "a".repeat(name));
            let refused = parse(head.as_bytes(), large).err();
            assert_eq!(refused, (!is_taken).then_some(Refusal::FieldName));
        }
    }

    #[test]
    fn the_fields_say_what_becomes_of_the_connection() {
        assert!(!head("connection: a, Close\r\n").keep_alive);
        assert!(!head("connection: close\r\nconnection: keep-alive\r\n").keep_alive);
        let http10 =
            |fields| parse(format!("GET / HTTP/1.0\r\n{fields}\r\n").as_bytes(), LIMITS).unwrap().unwrap();
        assert!(!http10("").keep_alive && http10("connection: Keep-Alive\r\n").keep_alive);
        assert!(head("expect: 100-Continue\r\n").expects_continue);
        assert!(!http10("expect: 100-continue\r\n").expects_continue);
        assert!(head("te: gzip, trailers\r\n").takes_trailers && !head("te: gzip\r\n").takes_trailers);
    }

    /// Fields with which requests are smuggled, and others.
    fn field() -> impl Strategy<Value = (&'static str, String)> {
        let names = vec![
            "Content-Length",
            "content-length",
            "Transfer-Encoding",
            "transfer-encoding",
            "Host",
            "x",
            "Connection",
        ];
        let values = vec![
            "5",
            "05",
            "+5",
            "5,5",
            "5 5",
            "0x5",
            "",
            "chunked",
            "CHUNKED",
            "gzip, chunked",
            "xchunked",
            "identity",
            "close",
        ];
        let space = prop::sample::select(vec!["", " ", "\t", "  "]);
        (prop::sample::select(names), space.clone(), prop::sample::select(values), space)
            .prop_map(|(name, before, value, after)| (name, format!("{before}{value}{after}")))
    }

    proptest! {
        /// Where the body ends follows from RFC 9112 §6.3, or the request is refused.
        #[test]
        fn a_head_that_is_taken_says_where_its_body_ends(
            fields in prop::collection::vec(field(), 0..5),
            version in prop::sample::select(vec!["1.0", "1.1"]),
        ) {
            let lines = fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect::<Vec<_>>().concat();
            let values = |name: &str| -> Vec<&str> {
                let named = fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
                named.map(|(_, value)| value.trim_matches([' ', '\t'])).collect()
            };
            let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
            let expected = match (&lengths[..], &codings[..]) {
                ([], []) => Some(Length::Known(0)),
                (["5" | "05"], []) => Some(Length::Known(5)),
                ([], ["chunked" | "CHUNKED"]) if version == "1.1" => Some(Length::Chunked),
                _ => None,
            };
            let parsed = parse(format!("POST / HTTP/{version}\r\n{lines}\r\n").as_bytes(), LIMITS);
            match (parsed, expected) {
                (Ok(Some(head)), Some(expected)) => {
                    prop_assert_eq!(head.body, expected);
                    prop_assert_eq!(head.parts.headers.len(), fields.len());
                    for (name, value) in &fields {
                        let trimmed = value.trim_matches([' ', '\t']);
                        let mut said = head.parts.headers.iter().filter(|field| field.written_name().eq_ignore_ascii_case(name.as_bytes()));
                        prop_assert!(said.any(|field| field.value() == trimmed.as_bytes()));
                    }
                }
                (Err(_), None) => {}
                (parsed, expected) => {
                    let parsed = parsed.map(|head| head.map(|head| head.body));
                    prop_assert!(false, "{:?} instead of {:?} for {:?}", parsed, expected, lines);
                }
            }
        }

        /// Nothing that HTTP/1.1 could not say comes out of it: written again, it is the same head.
        #[test]
        fn what_is_taken_can_be_written_again(bytes in prop_oneof![
            "[A-Za-z!]{1,5} /[ -~]{0,9} HTTP/1[.][0-2]\r\n([ -~]{0,9}:[ -~\\x00\t\r\n\u{80}-\u{ff}]{0,9}\r\n){0,4}\r\n",
            "[A-Za-z \t\r\n:/.01]{0,80}",
        ]) {
            if let Ok(Some(head)) = parse(bytes.as_bytes(), LIMITS) {
                let mut again = format!("{} {} HTTP/1.1\r\n", head.parts.method, head.parts.uri).into_bytes();
                for field in head.parts.headers.iter() {
                    again.extend_from_slice(field.line());
                    let (name, value) = (HeaderName::from_bytes(field.written_name()), HeaderValue::from_bytes(field.value()));
                    prop_assert!(name.is_ok_and(|name| name.as_str().as_bytes() == field.written_name()) && value.is_ok());
                }
                again.extend_from_slice(b"\r\n");
                for end in [b'\n', b'\r'] {
                    prop_assert_eq!(again.split(|b| *b == end).count(), head.parts.headers.len() + 3);
                }
                prop_assert!(!again.contains(&0));
                if head.parts.version == Version::HTTP_11 {
                    let twice = parse(&again, Limits { bytes: 2048, ..LIMITS }).unwrap().unwrap();
                    prop_assert_eq!(twice.parts.headers, head.parts.headers);
                    prop_assert_eq!((twice.parts.uri, twice.body), (head.parts.uri, head.body));
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic_and_a_part_of_a_head_is_never_a_head(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            fields in "([a-z]{1,9}: ?[ -~]{0,9}\r\n){0,6}",
        ) {
            let _ = parse(&bytes, LIMITS);
            let whole = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            if let Ok(Some(head)) = parse(whole.as_bytes(), LIMITS) {
                prop_assert_eq!(head.bytes, whole.len());
                for end in 0..whole.len() {
                    prop_assert!(matches!(parse(&whole.as_bytes()[..end], LIMITS), Ok(None)));
                }
            }
        }
    }
}
