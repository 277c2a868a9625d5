//! The same over HTTP/2, where a length, a name or a value can say what would end a request in HTTP/1.1.

use std::time::Duration;

use libtest_mimic::Trial;

use super::cases::Verdict::{self, Forward, May, Refuse};
use super::recorder::{Reached, Recorder, Request};
use super::{gateway, shown};
use crate::support::frames::{Ended, Field, Frames, flag, hpack, kind};
use crate::support::{pause, trials};

pub fn trials() -> Vec<Trial> {
    trials![every_case, an_empty_length_is_refused_before_its_body_comes]
}

const METHOD: Field<'static> = (b":method", b"POST");
const SCHEME: Field<'static> = (b":scheme", b"http");
const AUTHORITY: Field<'static> = (b":authority", b"a");
const PATH: Field<'static> = (b":path", b"/");

/// A head in frames, a body in frames, and what may come of it: the request as far as it is not `POST / @a`.
struct Case {
    verdict: Verdict,
    name: &'static str,
    head: Vec<Field<'static>>,
    body: Vec<&'static [u8]>,
    trailers: Option<Field<'static>>,
    meaning: Request,
}

/// A POST with more fields and this body.
fn post(verdict: Verdict, name: &'static str, more: &[Field<'static>], body: &[&'static [u8]]) -> Case {
    let head = [&[METHOD, SCHEME, AUTHORITY, PATH], more].concat();
    let meaning =
        Request { method: "POST".into(), target: "/".into(), host: "a".into(), body: body.concat() };
    Case { verdict, name, head, body: body.to_vec(), trailers: None, meaning }
}

/// The same with another head.
fn head(verdict: Verdict, name: &'static str, head: &[Field<'static>]) -> Case {
    Case { head: head.to_vec(), ..post(verdict, name, &[], &[b"hello"]) }
}

const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n";

fn lengths() -> Vec<Case> {
    let mut cases = vec![
        post(Forward, "no length", &[], &[b"hel", b"lo"]),
        post(Forward, "its length", &[(b"content-length", b"5")], &[b"hello"]),
        post(Forward, "a request in the body", &[], &[SMUGGLED]),
        post(Forward, "chunks in the body", &[], &[b"0\r\n\r\n", SMUGGLED]),
        post(Refuse, "H2.CL, nothing", &[(b"content-length", b"0")], &[SMUGGLED]),
        post(Refuse, "H2.CL, shorter", &[(b"content-length", b"3")], &[b"hello"]),
        post(Refuse, "H2.CL, shorter in two frames", &[(b"content-length", b"3")], &[b"hel", b"lo"]),
        post(Refuse, "H2.CL, longer", &[(b"content-length", b"50")], &[b"hello"]),
        post(Refuse, "H2.CL, two", &[(b"content-length", b"5"), (b"content-length", b"6")], &[b"hello"]),
        post(Refuse, "H2.CL, +5", &[(b"content-length", b"+5")], &[b"hello"]),
        post(Refuse, "H2.CL, hex", &[(b"content-length", b"0x5")], &[b"hello"]),
        post(Refuse, "H2.CL, empty", &[(b"content-length", b"")], &[b"hello"]),
        post(Refuse, "H2.CL, over 64 bits", &[(b"content-length", b"18446744073709551621")], &[b"hello"]),
        post(
            May,
            "H2.CL, twice the same",
            &[(b"content-length", b"5"), (b"content-length", b"5")],
            &[b"hello"],
        ),
        post(May, "H2.CL, a list", &[(b"content-length", b"5, 5")], &[b"hello"]),
        post(Refuse, "H2.TE, chunked", &[(b"transfer-encoding", b"chunked")], &[b"0\r\n\r\n", SMUGGLED]),
        post(Refuse, "H2.TE, identity", &[(b"transfer-encoding", b"identity")], &[b"hello"]),
        post(Refuse, "connection", &[(b"connection", b"transfer-encoding")], &[b"hello"]),
        post(Refuse, "te", &[(b"te", b"chunked")], &[b"hello"]),
        post(Forward, "te: trailers", &[(b"te", b"trailers")], &[b"hello"]),
        post(Refuse, "upgrade", &[(b"upgrade", b"h2c")], &[b"hello"]),
    ];
    let trailed = |trailer| Case { trailers: Some(trailer), ..post(May, "", &[], &[b"hello"]) };
    cases.push(Case { name: "a length in a trailer", ..trailed((b"content-length", b"50")) });
    cases.push(Case { name: "a coding in a trailer", ..trailed((b"transfer-encoding", b"chunked")) });
    let injecting = trailed((b"x", b"y\r\n\r\nGET /smuggled HTTP/1.1"));
    cases.push(Case { verdict: Refuse, name: "a line end in a trailer", ..injecting });
    cases
}

fn fields() -> Vec<Case> {
    let field = |verdict, name, field: Field<'static>| post(verdict, name, &[field], &[b"hello"]);
    vec![
        field(Refuse, "a line end in a value", (b"x", b"y\r\ntransfer-encoding: chunked")),
        field(Refuse, "a request in a value", (b"x", b"y\r\n\r\nGET /smuggled HTTP/1.1\r\nx: y")),
        field(Refuse, "a bare LF in a value", (b"x", b"y\nz: 1")),
        field(Refuse, "a bare CR in a value", (b"x", b"y\rz")),
        field(Refuse, "a NUL in a value", (b"x", b"y\0z")),
        field(Refuse, "a line end in a name", (b"x\r\ny", b"z")),
        field(Refuse, "a colon in a name", (b"transfer-encoding: chunked\r\nx", b"z")),
        field(Refuse, "a colon alone in a name", (b"x:", b"z")),
        field(Refuse, "a space in a name", (b"x y", b"z")),
        field(Refuse, "a space behind a name", (b"transfer-encoding ", b"chunked")),
        field(Refuse, "no name", (b"", b"z")),
        field(Refuse, "capitals in a name", (b"Content-Length", b"5")),
        field(Refuse, "a high byte in a name", (b"x\xff", b"z")),
        field(May, "a space before a value", (b"x", b" y")),
        field(May, "a host that is another", (b"host", b"evil")),
        field(Refuse, "a host with a line end", (b"host", b"a\r\nx: y")),
        post(Refuse, "two hosts", &[(b"host", b"a"), (b"host", b"b")], &[b"hello"]),
        field(Forward, "a cookie with a semicolon", (b"cookie", b"a=1; b=2")),
        field(Forward, "expect", (b"expect", b"100-continue")),
    ]
}

fn pseudo_fields() -> Vec<Case> {
    let path = |verdict, name, path: &'static [u8]| {
        head(verdict, name, &[METHOD, SCHEME, AUTHORITY, (b":path", path)])
    };
    let host = |verdict, name, host: &'static [u8]| {
        head(verdict, name, &[METHOD, SCHEME, (b":authority", host), PATH])
    };
    let method = |verdict, name, method: &'static [u8]| {
        head(verdict, name, &[(b":method", method), SCHEME, AUTHORITY, PATH])
    };
    let scheme = |verdict, name, scheme: &'static [u8]| {
        head(verdict, name, &[METHOD, (b":scheme", scheme), AUTHORITY, PATH])
    };
    vec![
        path(Refuse, "a request in the path", b"/ HTTP/1.1\r\nhost: evil\r\n\r\nGET /smuggled"),
        path(Refuse, "a space in the path", b"/ HTTP/1.1"),
        path(Refuse, "a tab in the path", b"/\tx"),
        path(Refuse, "a NUL in the path", b"/\0"),
        path(Refuse, "no path", b""),
        path(Refuse, "a path without a slash", b"x"),
        path(Refuse, "a URL for a path", b"http://evil/"),
        path(Refuse, "asterisk with a POST", b"*"),
        method(Refuse, "a request in the method", b"GET /smuggled HTTP/1.1\r\nhost: evil\r\n\r\nPOST"),
        method(Refuse, "a space in the method", b"POST /x"),
        method(Refuse, "no method", b""),
        method(Refuse, "CONNECT with a path", b"CONNECT"),
        method(Refuse, "TRACE", b"TRACE"),
        host(Refuse, "a line end in the authority", b"a\r\nx: y"),
        host(Refuse, "a space in the authority", b"a b"),
        host(Refuse, "a path in the authority", b"a/b"),
        host(Refuse, "a user in the authority", b"b@a"),
        host(Refuse, "a port of letters in the authority", b"a:x"),
        scheme(Refuse, "a line end in the scheme", b"http\r\nx: y"),
        scheme(Refuse, "a URL in the scheme", b"http://evil/?"),
        head(Refuse, "a path twice", &[METHOD, SCHEME, AUTHORITY, PATH, (b":path", b"/x")]),
        head(Refuse, "a method twice", &[METHOD, SCHEME, AUTHORITY, PATH, METHOD]),
        head(Refuse, "an authority twice", &[METHOD, SCHEME, AUTHORITY, PATH, AUTHORITY]),
        head(Refuse, "a path behind a field", &[METHOD, SCHEME, AUTHORITY, (b"x", b"y"), PATH]),
        head(Refuse, "a pseudo field that is none", &[METHOD, SCHEME, AUTHORITY, PATH, (b":x", b"y")]),
        head(Refuse, "a status", &[METHOD, SCHEME, AUTHORITY, PATH, (b":status", b"200")]),
        head(Refuse, "no scheme", &[METHOD, AUTHORITY, PATH]),
    ]
}

/// What came of a case on a connection of its own.
fn complaint(frames: &mut Frames, recorder: &Recorder, case: &Case) -> Option<String> {
    recorder.take();
    frames.stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    frames.request(1, &case.head, true);
    let last = case.body.len();
    for (n, piece) in case.body.iter().enumerate() {
        let ends = n + 1 == last && case.trailers.is_none();
        frames.send(kind::DATA, if ends { flag::END_STREAM } else { 0 }, 1, piece);
    }
    if let Some(trailer) = case.trailers {
        frames.send(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &hpack(&[trailer]));
    }
    let ended = frames.end_of(1);
    pause(Duration::from_millis(20));
    let reached = recorder.take();
    let wholes: Vec<_> = reached
        .iter()
        .filter_map(|reached| if let Reached::Whole(request) = reached { Some(request) } else { None })
        .collect();
    let fault = reached.iter().any(|reached| matches!(reached, Reached::Fault(_)));
    let refused = match ended {
        Ended::Answered(Some(status)) => (400..600).contains(&status),
        Ended::Reset(_) | Ended::GoneAway(_) => true,
        Ended::Answered(None) | Ended::Closed | Ended::Silent => false,
    };
    let forwarded = ended == Ended::Answered(Some(200)) && wholes == [&case.meaning];
    let fine = !fault
        && match case.verdict {
            Refuse | Verdict::Deny => refused && wholes.is_empty(),
            Forward => forwarded,
            May => forwarded || refused && wholes.is_empty(),
        };
    let fields: Vec<_> =
        case.head.iter().map(|(name, value)| format!("{}: {}", shown(name), shown(value))).collect();
    (!fine).then(|| format!("{}: {ended:?}, and the dataserver got {reached:?}, of {fields:?}", case.name))
}

fn every_case() {
    let (gateway, recorder) = gateway();
    let cases: Vec<_> = lengths().into_iter().chain(fields()).chain(pseudo_fields()).collect();
    let complaints: Vec<_> = cases
        .iter()
        .filter_map(|case| complaint(&mut Frames::connect(gateway.listen, b""), &recorder, case))
        .collect();
    assert!(
        complaints.is_empty(),
        "{} of {} cases:\n{}",
        complaints.len(),
        cases.len(),
        complaints.join("\n")
    );
}

/// h2 takes it for 0 and resets the stream at the first byte of the body, which may come late.
fn an_empty_length_is_refused_before_its_body_comes() {
    let (gateway, recorder) = gateway();
    let mut frames = Frames::connect(gateway.listen, b"");
    frames.request(1, &[METHOD, SCHEME, AUTHORITY, PATH, (b"content-length", b"")], true);
    assert_eq!(frames.end_of(1), Ended::Answered(Some(400)));
    assert!(recorder.take().is_empty());
}
