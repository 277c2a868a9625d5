//! What is published on an nsqd, heard by a consumer of its own.
//!
//! The protocol: <https://nsq.io/clients/tcp_protocol_spec.html>.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

use super::eventually;

/// Hears every heartbeat on one nsqd from when it was made.
pub struct Subscriber {
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// One message.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Instant,
    pub body: String,
}

impl Heard {
    /// A field of the JSON form.
    pub fn field(&self, name: &str) -> Value {
        serde_json::from_str::<Value>(&self.body).map_or(Value::Null, |body| body[name].clone())
    }

    /// Its `state`; nothing in the plain form.
    pub fn state(&self) -> String {
        self.field("state").as_str().unwrap_or_default().to_owned()
    }
}

impl Subscriber {
    /// Subscribes on an nsqd's TCP side.
    #[track_caller]
    pub fn new(nsqd: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(nsqd).unwrap();
        // When a message is heard is to say when it was published: nsqd would hold it back for 250 ms.
        let identify = br#"{"output_buffer_timeout":25}"#;
        stream.write_all(b"  V2IDENTIFY\n").unwrap();
        stream
            .write_all(&[&u32::try_from(identify.len()).unwrap().to_be_bytes(), &identify[..]].concat())
            .unwrap();
        stream.write_all(b"SUB data_server_addr hears#ephemeral\nRDY 100\n").unwrap();
        for _ in ["IDENTIFY", "SUB"] {
            assert_eq!(read_frame(&mut stream).as_deref(), Some(&b"\0\0\0\0OK"[..]));
        }
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let hears = heard.clone();
        std::thread::spawn(move || {
            while let Some(frame) = read_frame(&mut stream) {
                // Type, timestamp, attempts, id, body; anything but a message is nsqd's heartbeat.
                let Some((id, body)) = frame.strip_prefix(&[0, 0, 0, 2]).map(|rest| rest[10..].split_at(16))
                else {
                    let _ = stream.write_all(b"NOP\n");
                    continue;
                };
                let body = String::from_utf8_lossy(body).into_owned();
                hears.lock().unwrap().push(Heard { at: Instant::now(), body });
                let _ = stream.write_all(&[b"FIN ", id, b"\n"].concat());
            }
        });
        Self { heard }
    }

    /// All so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits for the first heartbeat of this state.
    #[track_caller]
    pub fn wait_for(&self, state: &str) -> Heard {
        eventually(&format!("a heartbeat that says {state}"), || {
            self.heard().into_iter().find(|heard| heard.state() == state)
        })
    }
}

/// Without its size.
fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut size = [0; 4];
    stream.read_exact(&mut size).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}
