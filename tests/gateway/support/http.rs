//! HTTP/1.1 by hand: the tests must see what is really on the wire.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the message ended as its framing said, and not by a closed connection.
    pub complete: bool,
}

impl Reply {
    /// The value of a field that is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(field, _)| field == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

/// Sends bytes on a connection of its own and reads one answer.
#[track_caller]
pub fn exchange(to: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = connect(to);
    stream.write_all(bytes).unwrap();
    read_reply(&mut BufReader::new(stream), bytes.starts_with(b"HEAD ")).expect("no answer")
}

/// A connection that does not wait for ever.
#[track_caller]
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Whether a connection ends without another byte. One that stays open does not.
pub fn ends(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// `METHOD path`, fields of its own, and a body.
pub fn request(method_and_path: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method_and_path} HTTP/1.1\r\nhost: test\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

#[track_caller]
pub fn get(to: SocketAddr, path: &str) -> Reply {
    exchange(to, &request(&format!("GET {path}"), &[("connection", "close")], b""))
}

#[track_caller]
pub fn post(to: SocketAddr, path: &str, body: &[u8]) -> Reply {
    exchange(to, &request(&format!("POST {path}"), &[("connection", "close")], body))
}

/// Reads one answer; `None` if the connection ended before one.
pub fn read_reply(stream: &mut impl BufRead, to_head: bool) -> Option<Reply> {
    let (first, headers) = read_head(stream)?;
    let status: u16 = first.split(' ').nth(1)?.parse().ok()?;
    let bodiless = to_head || status / 100 == 1 || status == 204 || status == 304;
    let (body, complete) = if bodiless { (Vec::new(), true) } else { read_body(stream, &headers, true) };
    Some(Reply { status, headers, body, complete })
}

/// Reads a start line and fields.
pub fn read_head(stream: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let first = line.trim_end().to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Some((first, headers));
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Reads a body, and whether it ended as its framing says. Without framing it goes `to_the_end`, or is empty.
pub fn read_body(
    stream: &mut impl BufRead,
    headers: &[(String, String)],
    to_the_end: bool,
) -> (Vec<u8>, bool) {
    let field = |name| headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if field("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            let Ok(1..) = stream.read_line(&mut line) else {
                return (body, false);
            };
            let Ok(size) = u64::from_str_radix(line.trim_end().split(';').next().unwrap_or(""), 16) else {
                return (body, false);
            };
            let mut chunk = Vec::new();
            let read = stream.take(size + 2).read_to_end(&mut chunk).unwrap_or(0) as u64;
            if read < size + 2 {
                return (body, false);
            }
            chunk.truncate(usize::try_from(size).unwrap());
            body.extend(chunk);
            if size == 0 {
                return (body, true);
            }
        }
    }
    if let Some(length) = field("content-length").and_then(|length| length.parse::<u64>().ok()) {
        let _ = stream.take(length).read_to_end(&mut body);
        let complete = body.len() as u64 == length;
        return (body, complete);
    }
    if to_the_end {
        let complete = stream.read_to_end(&mut body).is_ok();
        return (body, complete);
    }
    (body, true)
}
