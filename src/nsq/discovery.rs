//! Asking nsqlookupds which nsqds there are. Every answer is bounded in time and size, and a lookupd that
//! fails costs nothing but its own answer: what it said last still counts.
//!
//! The interface: <https://nsq.io/components/nsqlookupd.html>.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use crate::config::Endpoint;
use crate::fetch::{self, FetchError};

/// Some nsqds: the TCP side of each, and its HTTP side.
pub(super) type Sides = BTreeMap<Endpoint, Endpoint>;

/// The nsqlookupds, and what each said last.
pub(super) struct Lookupds {
    lookupds: Vec<Lookupd>,
    timeout: Duration,
}

#[derive(Clone)]
struct Lookupd {
    endpoint: String,
    /// What it said last; nothing before it was heard.
    nsqds: Option<Sides>,
    failing: bool,
}

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the answer is not nsqlookupd's JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// An answer of nsqlookupd or nsqd; before NSQ 1.0 it came wrapped in `data`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Answer<T> {
    Plain(T),
    Wrapped { data: T },
}

/// What `/lookup` and `/nodes` answer.

#[derive(Deserialize)]
struct Producers {
    producers: Vec<Producer>,
}

#[derive(Deserialize)]
struct Producer {
    broadcast_address: String,
    tcp_port: u16,
    #[serde(default)]
    http_port: u16,
}

impl Lookupds {
    pub(super) fn new(endpoints: &[Endpoint], timeout: Duration) -> Self {
        let lookupd =
            |endpoint: &Endpoint| Lookupd { endpoint: endpoint.to_string(), nsqds: None, failing: false };
        Self { lookupds: endpoints.iter().map(lookupd).collect(), timeout }
    }

    /// What these and `before` have in common begins with what it said last.
    pub(super) fn go_on_from(&mut self, before: &Self) {
        for lookupd in &mut self.lookupds {
            if let Some(same) = before.lookupds.iter().find(|before| before.endpoint == lookupd.endpoint) {
                lookupd.clone_from(same);
            }
        }
    }

    /// Whether each was heard once.
    pub(super) fn have_all_answered(&self) -> bool {
        self.lookupds.iter().all(|lookupd| lookupd.nsqds.is_some())
    }

    /// The nsqds that have this topic.
    pub(super) async fn nsqds_of(&mut self, topic: &str) -> Sides {
        // `#` begins a fragment in a URL; nothing else that a topic may hold has a meaning there.
        self.ask(&format!("/lookup?topic={}", topic.replace('#', "%23"))).await
    }

    /// All nsqds.
    pub(super) async fn nsqds(&mut self) -> Sides {
        self.ask("/nodes").await
    }

    async fn ask(&mut self, path: &str) -> Sides {
        let within = self.timeout;
        let mut asked = tokio::task::JoinSet::new();
        for (n, lookupd) in self.lookupds.iter().enumerate() {
            let (endpoint, path) = (lookupd.endpoint.clone(), path.to_owned());
            asked.spawn(async move { (n, ask(&endpoint, &path, within).await) });
        }
        while let Some(answered) = asked.join_next().await {
            if let Ok((n, answer)) = answered
                && let Some(lookupd) = self.lookupds.get_mut(n)
            {
                lookupd.note(answer);
            }
        }
        self.known()
    }

    /// What they said last, without asking again.
    pub(super) fn known(&self) -> Sides {
        self.lookupds.iter().filter_map(|lookupd| lookupd.nsqds.clone()).flatten().collect()
    }
}

impl Lookupd {
    fn note(&mut self, answer: Result<Sides, LookupError>) {
        let nsqlookupd = &self.endpoint;
        match answer {
            Ok(nsqds) => {
                if self.failing {
                    tracing::info!(nsqlookupd, "nsqlookupd answers again");
                }
                if nsqds != *self.nsqds.get_or_insert_default() {
                    let names: Vec<_> = nsqds.keys().map(ToString::to_string).collect();
                    tracing::info!(nsqlookupd, nsqds = ?names, "nsqlookupd names other nsqds than before");
                }
                (self.failing, self.nsqds) = (false, Some(nsqds));
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(nsqlookupd, "nsqlookupd fails, its last answer stands: {error}");
                }
                self.failing = true;
            }
        }
    }
}

async fn ask(endpoint: &str, path: &str, within: Duration) -> Result<Sides, LookupError> {
    let answer = fetch::get(endpoint, path, within).await?;
    match answer.status() {
        StatusCode::OK => parse(answer.body()),
        // Nobody has published to the topic yet. Any other 404 is not nsqlookupd's.
        StatusCode::NOT_FOUND if contains(answer.body(), b"TOPIC_NOT_FOUND") => Ok(Sides::new()),
        status => Err(LookupError::Status(status)),
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|window| window == text)
}

fn parse(body: &[u8]) -> Result<Sides, LookupError> {
    let (Answer::Plain(answer) | Answer::Wrapped { data: answer }) =
        serde_json::from_slice::<Answer<Producers>>(body)?;
    // What is no endpoint cannot be connected to: one strange node must not hide the others.
    Ok(answer.producers.iter().filter_map(Producer::endpoints).collect())
}

impl Producer {
    fn endpoints(&self) -> Option<(Endpoint, Endpoint)> {
        let host = &self.broadcast_address;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let tcp: Endpoint = format!("{host}:{}", self.tcp_port).parse().ok()?;
        let http = format!("{host}:{}", self.http_port).parse().unwrap_or_else(|()| usual_http(&tcp));
        Some((tcp, http))
    }
}

/// Where an nsqd is by custom asked over HTTP that is only known by its TCP side: one port further.
pub(super) fn usual_http(tcp: &Endpoint) -> Endpoint {
    tcp.with_port(tcp.port().saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    fn nsqds(nsqds: &[(&str, &str)]) -> Sides {
        nsqds.iter().map(|(tcp, http)| (tcp.parse().unwrap(), http.parse().unwrap())).collect()
    }

    fn lookupds(endpoints: &[&str]) -> Lookupds {
        let endpoints: Vec<_> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        Lookupds::new(&endpoints, Duration::from_millis(500))
    }

    /// An nsqlookupd that answers every request with these bytes, as often as it is asked.
    async fn stub(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.read(&mut [0; 1]).await;
                });
            }
        });
        endpoint
    }

    fn ok(json: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}", json.len()).into_bytes()
    }

    #[test]
    fn both_forms_of_an_answer_are_read() {
        let producers = r#"{"producers":[{"broadcast_address":"10.0.0.1","tcp_port":4150,"http_port":80,"x":1},
            {"broadcast_address":"::1","tcp_port":1},{"broadcast_address":"a b","tcp_port":1}]}"#;
        let expected = nsqds(&[("10.0.0.1:4150", "10.0.0.1:80"), ("[::1]:1", "[::1]:2")]);
        assert_eq!(parse(producers.as_bytes()).unwrap(), expected);
        let wrapped = format!(r#"{{"status_code":200,"data":{producers}}}"#);
        assert_eq!(parse(wrapped.as_bytes()).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_answer_is_nsqds_or_an_error(body in "(?s).{0,200}", host in ".{0,20}", port: u32) {
            let _ = parse(body.as_bytes());
            let _ = parse(serde_json::json!({"producers": [{"broadcast_address": host, "tcp_port": port}]}).to_string().as_bytes());
        }
    }

    #[tokio::test]
    async fn answers_are_joined_and_a_failed_lookupd_keeps_what_it_said() {
        let one = stub(ok(r#"{"producers":[{"broadcast_address":"a","tcp_port":1}]}"#)).await;
        let two = stub(ok(r#"{"producers":[{"broadcast_address":"b","tcp_port":2}]}"#)).await;
        let none = b"HTTP/1.1 404 Not Found\r\ncontent-length: 29\r\n\r\n{\"message\":\"TOPIC_NOT_FOUND\"}";
        let none = stub(none.to_vec()).await;
        let mut lookupds = lookupds(&[&one, &two, &none, "127.0.0.1:1"]);
        let both = nsqds(&[("a:1", "a:2"), ("b:2", "b:3")]);
        assert_eq!(lookupds.nsqds_of("t").await, both);
        lookupds.lookupds[0].endpoint = "127.0.0.1:1".to_owned();
        assert_eq!(lookupds.nsqds_of("t").await, both);
    }

    #[tokio::test]
    async fn faults_15_a_lookupd_that_hangs_talks_junk_or_never_ends_costs_its_timeout_at_most() {
        let mut endless = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n".to_vec();
        endless.resize(8 << 20, b' ');
        for answer in [Vec::new(), b"\x16\x03\x01junk\r\n\r\n".to_vec(), ok("[]"), endless] {
            let bad = stub(answer).await;
            let good = stub(ok(r#"{"producers":[{"broadcast_address":"a","tcp_port":1}]}"#)).await;
            let begun = Instant::now();
            assert_eq!(lookupds(&[&bad, &good]).nsqds_of("t").await.len(), 1);
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
    }
}
