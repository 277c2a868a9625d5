//! One user: how it comes, what it asks, and what it would complain about.

use std::io::{BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::frames::{Field, Frames, flag, kind};
use crate::support::{read_reply, request};

/// Longer than anything that is waited for: an answer that takes longer is none.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a user of HTTP/2 asks anew what a gateway that leaves has not taken.
const TRIES: usize = 5;

/// How a user comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// HTTP/1.1, one request after another on a connection that is kept.
    Kept,
    /// HTTP/1.1, on a connection of its own each time.
    Anew,
    /// HTTP/2, several streams at once on a connection that is kept.
    Http2,
}

impl Way {
    /// How many requests are asked at once.
    pub fn at_once(self) -> usize {
        match self {
            Self::Kept | Self::Anew => 1,
            Self::Http2 => 3,
        }
    }
}

/// A method and a path. A POST has a body.
pub type Asked = (&'static str, String);

const BODY: &[u8] = b"once";

/// Asks one of several gateways, and goes to the next when it is not let in any more.
pub struct User {
    pub way: Way,
    to: Vec<SocketAddr>,
    http1: Option<BufReader<TcpStream>>,
    http2: Option<Http2>,
}

impl User {
    pub fn new(way: Way, to: &[SocketAddr]) -> Self {
        Self { way, to: to.to_vec(), http1: None, http2: None }
    }

    /// Asks all of it at once, and says what was wrong with each answer.
    pub fn ask(&mut self, asked: &[Asked]) -> Vec<Option<String>> {
        if self.way == Way::Http2 {
            return self.over_http2(asked);
        }
        let failure = |asked| {
            let failure = self.over_http1(asked).err();
            if failure.is_some() {
                self.http1 = None;
            }
            failure
        };
        asked.iter().map(failure).collect()
    }

    fn over_http1(&mut self, (method, path): &Asked) -> Result<(), String> {
        let mut reader = match self.http1.take() {
            Some(open) => open,
            None => BufReader::new(self.connect()?),
        };
        let bytes = request(&format!("{method} {path}"), &[], body_of(method));
        reader.get_mut().write_all(&bytes).map_err(|error| format!("send: {error}"))?;
        let reply = read_reply(&mut reader, false).ok_or("no answer")?;
        if reply.status != 200 || !reply.complete {
            let whole = if reply.complete { "" } else { ", cut short" };
            return Err(format!("{}{whole}: {}", reply.status, reply.text()));
        }
        let goes_on = self.way == Way::Kept && reply.header("connection") != Some("close");
        self.http1 = goes_on.then_some(reader);
        Ok(())
    }

    fn over_http2(&mut self, asked: &[Asked]) -> Vec<Option<String>> {
        let mut failures = vec![None; asked.len()];
        let mut left: Vec<usize> = (0..asked.len()).collect();
        for _ in 0..TRIES {
            let mut open = match self.http2.take().filter(Http2::is_open) {
                Some(open) => open,
                None => match self.connect() {
                    Ok(stream) => Http2::on(stream),
                    Err(error) => {
                        for n in left {
                            failures[n] = Some(error.clone());
                        }
                        return failures;
                    }
                },
            };
            let asked: Vec<_> = left.iter().map(|n| &asked[*n]).collect();
            let mut not_taken = Vec::new();
            for (n, outcome) in left.into_iter().zip(open.ask(&asked)) {
                match outcome {
                    Outcome::Answered => {}
                    Outcome::Failed(why) => failures[n] = Some(why),
                    Outcome::NotTaken => not_taken.push(n),
                }
            }
            left = not_taken;
            self.http2 = Some(open).filter(|open| !open.is_leaving);
            if left.is_empty() {
                return failures;
            }
        }
        for n in left {
            failures[n] = Some("never taken".to_owned());
        }
        failures
    }

    fn connect(&mut self) -> Result<TcpStream, String> {
        for _ in 1..self.to.len() {
            match connect(self.to[0]) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.to.rotate_left(1),
                other => return other.map_err(|error| format!("connect: {error}")),
            }
        }
        connect(self.to[0]).map_err(|error| format!("connect: {error}"))
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn body_of(method: &str) -> &'static [u8] {
    if method == "POST" { BODY } else { b"" }
}

/// A connection of HTTP/2.
struct Http2 {
    frames: Frames,
    next: u32,
    /// The gateway has said that it takes no more streams.
    is_leaving: bool,
}

/// What became of a stream.
#[derive(Clone)]
enum Outcome {
    Answered,
    Failed(String),
    /// The gateway has said that it did nothing with it (RFC 9113 §8.7), so it may be asked for again.
    NotTaken,
}

impl Http2 {
    /// Without a dynamic table (`SETTINGS_HEADER_TABLE_SIZE` 0), so that a status says itself what it is.
    fn on(stream: TcpStream) -> Self {
        Self { frames: Frames::on(stream, &[0, 1, 0, 0, 0, 0]), next: 1, is_leaving: false }
    }

    /// Whether no GOAWAY has come while nobody read. One that ends without a word fails whoever asks on it.
    fn is_open(&self) -> bool {
        let stream = &self.frames.stream;
        stream.set_nonblocking(true).unwrap();
        let mut waiting = [0; 4096];
        let read = stream.peek(&mut waiting);
        stream.set_nonblocking(false).unwrap();
        let Ok(read) = read else { return true };
        let mut rest = &waiting[..read];
        while let [a, b, c, kind, ..] = rest {
            if *kind == kind::GOAWAY {
                return false;
            }
            let length = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            rest = rest.get(length..).unwrap_or_default();
        }
        true
    }

    fn ask(&mut self, asked: &[&Asked]) -> Vec<Outcome> {
        let first = self.next;
        for (method, path) in asked {
            let fields: [Field<'_>; 4] = [
                (b":method", method.as_bytes()),
                (b":scheme", b"http"),
                (b":authority", b"test"),
                (b":path", path.as_bytes()),
            ];
            let body = body_of(method);
            // Whether that went well is seen by what comes back.
            self.frames.request(self.next, &fields, !body.is_empty());
            if !body.is_empty() {
                self.frames.send(kind::DATA, flag::END_STREAM, self.next, body);
            }
            self.next += 2;
        }
        let mut outcomes: Vec<Option<Outcome>> = vec![None; asked.len()];
        let mut statuses = vec![None; asked.len()];
        while outcomes.iter().any(Option::is_none) {
            let Some(frame) = self.frames.read() else {
                self.is_leaving = true;
                fill(&mut outcomes, "the connection ended before the answer");
                break;
            };
            let code = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
            let stream = frame.stream.checked_sub(first).map(|after| (after / 2) as usize);
            let stream = stream.filter(|n| *n < asked.len());
            match (frame.kind, stream) {
                (kind::GOAWAY, _) => {
                    self.is_leaving = true;
                    if code(4) != 0 {
                        fill(&mut outcomes, &format!("GOAWAY with code {}", code(4)));
                    }
                    let streams = (first..).step_by(2);
                    for (outcome, _) in outcomes.iter_mut().zip(streams).filter(|(_, id)| *id > code(0)) {
                        outcome.get_or_insert(Outcome::NotTaken);
                    }
                }
                // After a whole answer it only says that the rest of the request is not wanted (RFC 9113 §8.1).
                (kind::RST_STREAM, Some(n)) if outcomes[n].is_none() => {
                    const REFUSED_STREAM: u32 = 7;
                    outcomes[n] = Some(match code(0) {
                        REFUSED_STREAM => Outcome::NotTaken,
                        code => Outcome::Failed(format!("reset with code {code}")),
                    });
                }
                (kind::HEADERS, Some(n)) if statuses[n].is_none() => statuses[n] = frame.status(),
                (kind::DATA, _) if !frame.payload.is_empty() => {
                    let length = u32::try_from(frame.payload.len()).unwrap();
                    self.frames.send(kind::WINDOW_UPDATE, 0, 0, &length.to_be_bytes());
                }
                (kind::SETTINGS, _) if frame.flags == 0 => {
                    self.frames.send(kind::SETTINGS, 1, 0, b"");
                }
                (kind::PING, _) if frame.flags == 0 => {
                    self.frames.send(kind::PING, 1, 0, &frame.payload);
                }
                _ => {}
            }
            let ends =
                matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & flag::END_STREAM != 0;
            if let Some(n) = stream.filter(|_| ends) {
                outcomes[n] = Some(match statuses[n] {
                    Some(200) => Outcome::Answered,
                    Some(status) => Outcome::Failed(status.to_string()),
                    None => Outcome::Failed("no status".to_owned()),
                });
            }
        }
        outcomes.into_iter().flatten().collect()
    }
}

/// What has not come yet has failed.
fn fill(outcomes: &mut [Option<Outcome>], why: &str) {
    for outcome in outcomes {
        outcome.get_or_insert_with(|| Outcome::Failed(why.to_owned()));
    }
}
