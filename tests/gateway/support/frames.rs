//! HTTP/2 by hand: frames that no client library would send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Frame types (RFC 9113 §6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags; ACK has the same bit as `END_STREAM`.
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// A field of a head, by name and value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A GET's pseudo fields.
pub const GET: [Field<'static>; 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")];

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The status at the head of a HEADERS frame, as far as it can be told.
    pub fn status(&self) -> Option<u16> {
        status(&self.payload)
    }
}

/// How a stream, or its connection, ended for the client.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Ended {
    /// With the status of a whole answer, as far as it can be told.
    Answered(Option<u16>),
    Reset(u32),
    GoneAway(u32),
    Closed,
    /// Nothing came for as long as a read may take.
    Silent,
}

/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection to the gateway.
pub struct Frames {
    pub stream: TcpStream,
}

impl Frames {
    /// Connects, and says the preface and settings of its own.
    pub fn connect(to: SocketAddr, settings: &[u8]) -> Self {
        Self::on(super::connect(to), settings)
    }

    /// Says the preface and settings of its own on a connection on which nothing was said yet.
    pub fn on(mut stream: TcpStream, settings: &[u8]) -> Self {
        stream.write_all(PREFACE).unwrap();
        Self::after_preface(stream, settings)
    }

    /// Says settings of its own on a connection on which the preface was said.
    pub fn after_preface(stream: TcpStream, settings: &[u8]) -> Self {
        let mut frames = Self { stream };
        assert!(frames.send(kind::SETTINGS, 0, 0, settings));
        frames
    }

    /// Sends a frame; false if the connection has ended.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.stream.write_all(&frame(kind, flags, stream, payload)).is_ok()
    }

    /// Sends a request's head in one frame.
    pub fn request(&mut self, stream: u32, fields: &[Field<'_>], more_follows: bool) -> bool {
        let flags = flag::END_HEADERS | if more_follows { 0 } else { flag::END_STREAM };
        self.send(kind::HEADERS, flags, stream, &hpack(fields))
    }

    /// The next frame; `None` when the connection has ended or nothing comes.
    pub fn read(&mut self) -> Option<Frame> {
        self.try_read().ok()
    }

    fn try_read(&mut self) -> std::io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let stream = u32::from_be_bytes(stream[..4].try_into().unwrap()) & 0x7fff_ffff;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(Frame { kind, flags, stream, payload })
    }

    /// Reads until the end of a stream, and says meanwhile what a client that is alive has to.
    pub fn end_of(&mut self, stream: u32) -> Ended {
        let mut answered = None;
        loop {
            let frame = match self.try_read() {
                Ok(frame) => frame,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ended::Silent,
                Err(_) => return Ended::Closed,
            };
            let code = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
            match frame.kind {
                kind::GOAWAY if code(4) != 0 => return Ended::GoneAway(code(4)),
                kind::RST_STREAM if frame.stream == stream => return Ended::Reset(code(0)),
                kind::HEADERS if frame.stream == stream && answered.is_none() => {
                    answered = frame.status();
                }
                kind::SETTINGS if frame.flags == 0 => {
                    self.send(kind::SETTINGS, 1, 0, b"");
                }
                kind::PING if frame.flags == 0 => {
                    self.send(kind::PING, 1, 0, &frame.payload);
                }
                _ => {}
            }
            let ends =
                matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & flag::END_STREAM != 0;
            if ends && frame.stream == stream {
                return Ended::Answered(answered);
            }
        }
    }

    /// Whether the gateway ends the connection within a time, with a GOAWAY before that or without.
    pub fn is_ended_within(&mut self, limit: Duration) -> bool {
        let deadline = std::time::SystemTime::now() + limit;
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = vec![0; 65536];
        while std::time::SystemTime::now() < deadline {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
        }
        false
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as literals that are not indexed, their bytes as they are (RFC 7541 §6.2.2).
pub fn hpack(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// A string that is not Huffman coded, behind its length (RFC 7541 §5.1, §5.2).
pub fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        short @ 0..127 => block.push(u8::try_from(short).unwrap()),
        long => {
            block.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }
    block.extend_from_slice(bytes);
}

/// The status at the head of a block: an entry of the static table, or digits in Huffman's code (RFC 7541 appendices
/// A and B). What a connection's second answer takes from the dynamic table is not known here.
fn status(block: &[u8]) -> Option<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        // A new size of the dynamic table may come first; it has to if the client has set another one.
        [0x20..=0x3e, rest @ ..] => status(rest),
        [indexed @ 0x88..=0x8e, ..] => Some(STATIC[usize::from(indexed - 0x88)]),
        [0x48 | 0x08, length, digits @ ..] if length & 0x80 == 0 => {
            std::str::from_utf8(digits.get(..usize::from(*length))?).ok()?.parse().ok()
        }
        [0x48 | 0x08, length, coded @ ..] => {
            let bits: Vec<bool> = coded[..usize::from(length & 0x7f)]
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
                .collect();
            let mut at = 0;
            let mut take = |count: usize| {
                let value =
                    bits.get(at..at + count)?.iter().fold(0u16, |value, bit| value * 2 + u16::from(*bit));
                at += count;
                Some(value)
            };
            // 0, 1 and 2 have five bits, the other digits six.
            (0..3).try_fold(0, |status, _| {
                let five = take(5)?;
                let digit = if five <= 2 { five } else { (five * 2 + take(1)?).checked_sub(22)? };
                Some(status * 10 + digit)
            })
        }
        _ => None,
    }
}
