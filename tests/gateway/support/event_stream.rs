//! Server-sent events as they come, one after the other.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::http::{connect, read_head, request};

/// A stream of events, over HTTP/1.1.
pub struct EventStream {
    pub headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
    /// What has come of the next event.
    text: String,
}

impl EventStream {
    /// Asks for one.
    #[track_caller]
    pub fn open(to: SocketAddr, path: &str) -> Self {
        use std::io::Write;
        let mut stream = connect(to);
        stream.write_all(&request(&format!("GET {path}"), &[("accept", "text/event-stream")], b"")).unwrap();
        let mut reader = BufReader::new(stream);
        let (first, headers) = read_head(&mut reader).expect("no answer");
        assert!(first.contains(" 200 "), "{first}");
        Self { headers, reader, text: String::new() }
    }

    /// The next event, its name and its data; `None` when the stream has ended as it should.
    #[track_caller]
    pub fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
                let event = field("event: ").map(str::to_owned);
                let data = field("data: ").map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                if let (Some(event), Some(data)) = (event, data) {
                    return Some((event, data));
                }
                continue;
            }
            let mut size = String::new();
            self.reader.read_line(&mut size).unwrap();
            let size =
                u64::from_str_radix(size.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk: {size:?}"));
            let mut chunk = String::new();
            (&mut self.reader).take(size + 2).read_to_string(&mut chunk).unwrap();
            if size == 0 {
                return None;
            }
            self.text.push_str(chunk.strip_suffix("\r\n").expect("no end of the chunk"));
        }
    }

    /// Reads on until `find` makes something of an event.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, mut find: impl FnMut(&str, &Value) -> Option<T>) -> T {
        let deadline = std::time::SystemTime::now() + std::time::Duration::from_secs(20);
        while let Some((event, data)) = self.next() {
            if let Some(found) = find(&event, &data) {
                return found;
            }
            assert!(std::time::SystemTime::now() < deadline, "no {what} in time; the last was {data}");
        }
        panic!("the stream has ended without {what}");
    }
}
