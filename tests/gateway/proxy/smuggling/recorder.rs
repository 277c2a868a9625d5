//! A dataserver that takes RFC 9112 at its word: what it cannot be certain of it records as a fault, and closes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::support::Stub;

/// What reached the dataserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reached {
    Whole(Request),
    /// A request that did not come to its end: the sender gave it up.
    CutShort,
    /// What no strict reader can take for a request.
    Fault(String),
}

/// A request, as far as its meaning goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) body: Vec<u8>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} @{} {:?}", self.method, self.target, self.host, super::shown(&self.body))
    }
}

/// The dataserver and its record.
pub(super) struct Recorder {
    stub: Stub,
    record: Arc<Mutex<Vec<Reached>>>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        let record: Arc<Mutex<Vec<Reached>>> = Arc::default();
        let written = record.clone();
        let stub = Stub::raw(move |stream| {
            let mut reader = BufReader::new(&stream);
            loop {
                let reached = match read_request(&mut reader) {
                    Ok(Some(request)) => Reached::Whole(request),
                    Ok(None) => return,
                    Err(Flaw::End) => Reached::CutShort,
                    Err(Flaw::Fault(fault)) => Reached::Fault(fault),
                };
                let body = match &reached {
                    Reached::Whole(request) if request.method == "HEAD" => "",
                    Reached::Whole(_) => "ok",
                    Reached::CutShort | Reached::Fault(_) => {
                        written.lock().unwrap().push(reached);
                        return;
                    }
                };
                // Before the answer, or who has that would look for it in vain.
                written.lock().unwrap().push(reached);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
                if (&stream).write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { stub, record }
    }

    pub(super) fn stub(&self) -> &Stub {
        &self.stub
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.stub.addr()
    }

    /// What has reached it since it was asked last.
    pub(super) fn take(&self) -> Vec<Reached> {
        std::mem::take(&mut *self.record.lock().unwrap())
    }
}

enum Flaw {
    /// The connection ended within a request.
    End,
    Fault(String),
}

fn fault<T>(what: &str, bytes: &[u8]) -> Result<T, Flaw> {
    Err(Flaw::Fault(format!("{what}: {}", super::shown(bytes))))
}

/// The next request; `None` where the connection ends before one.
fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>, Flaw> {
    if !reader.fill_buf().is_ok_and(|bytes| !bytes.is_empty()) {
        return Ok(None);
    }
    let line = read_line(reader)?;
    let parts: Vec<_> = line.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else { return fault("request line", &line) };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return fault("method", method);
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return fault("target", target);
    }
    let fields = read_fields(reader)?;
    let values = |name: &str| -> Vec<&[u8]> {
        fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_slice()).collect()
    };
    let [host] = values("host")[..] else { return fault("not one Host", &line) };
    let body = match (&values("transfer-encoding")[..], &values("content-length")[..]) {
        ([], []) => Vec::new(),
        ([], [length]) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let parsed =
                std::str::from_utf8(length).ok().filter(|_| digits).and_then(|length| length.parse().ok());
            let Some(length) = parsed else { return fault("Content-Length", length) };
            read_exactly(reader, length)?
        }
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => read_chunks(reader)?,
        ([_, ..], [_, ..]) => return fault("a length and a coding", &line),
        ([], _) => return fault("several lengths", &line),
        ([coding, ..], []) => return fault("Transfer-Encoding", coding),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Some(Request { method: text(method), target: text(target), host: text(host), body }))
}

/// Fields up to the empty line, their names in lower case.
fn read_fields(reader: &mut impl BufRead) -> Result<Vec<(String, Vec<u8>)>, Flaw> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return fault("field", &line) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return fault("field name", &line);
        }
        if value.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            return fault("field value", &line);
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
}

fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>, Flaw> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = line.split(|b| *b == b';').next().unwrap_or_default();
        let hex = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
        let parsed = std::str::from_utf8(size).ok().filter(|_| hex);
        let Some(size) = parsed.and_then(|size| u64::from_str_radix(size, 16).ok()) else {
            return fault("chunk size", &line);
        };
        if size == 0 {
            read_fields(reader)?;
            return Ok(body);
        }
        body.extend(read_exactly(reader, size)?);
        if read_exactly(reader, 2)? != b"\r\n" {
            return fault("the end of a chunk", &line);
        }
    }
}

/// A line without its CR LF, which must be its only ones.
fn read_line(reader: &mut impl BufRead) -> Result<Vec<u8>, Flaw> {
    let mut line = Vec::new();
    let read = reader.take(1 << 20).read_until(b'\n', &mut line);
    if read.is_err() || line.last() != Some(&b'\n') {
        return Err(Flaw::End);
    }
    line.pop();
    if line.pop() != Some(b'\r') || line.contains(&b'\r') || line.contains(&0) {
        return fault("the end of a line", &line);
    }
    Ok(line)
}

fn read_exactly(reader: &mut impl BufRead, length: u64) -> Result<Vec<u8>, Flaw> {
    let mut bytes = Vec::new();
    let _ = reader.take(length).read_to_end(&mut bytes);
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(Flaw::End) }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
