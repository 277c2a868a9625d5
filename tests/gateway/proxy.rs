//! A request's way through the gateway, with raw bytes on both sides.
//!
//! The files follow the table of what a proxy must do, from a request's head to the gateway's end; a test whose name
//! begins with `http_` and a number keeps the row of that number.

mod answers;
mod attacks;
mod bodies;
mod crowds;
mod edge;
mod failures;
mod fields;
mod framing;
mod grpc;
mod h2c;
mod half_open;
mod head;
mod http2;
mod identity;
mod leaving;
mod pools;
mod smuggling;
mod stalls;
mod stopping;
mod time;
mod tls;
mod upgrades;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::{Apiserver, Exchange, PATIENT, Reply, Stub, connect, eventually, exchange, read_reply};

pub fn trials() -> Vec<Trial> {
    let rooms = [
        head::trials(),
        framing::trials(),
        fields::trials(),
        upgrades::trials(),
        answers::trials(),
        bodies::trials(),
        failures::trials(),
        half_open::trials(),
        http2::trials(),
        identity::trials(),
        attacks::trials(),
        time::trials(),
        stalls::trials(),
        crowds::trials(),
        leaving::trials(),
        stopping::trials(),
        pools::trials(),
        smuggling::trials(),
        edge::trials(),
        tls::trials(),
        h2c::trials(),
        grpc::trials(),
    ];
    rooms.into_iter().flatten().collect()
}

/// How many rows the table of what a proxy must do has.
const ROWS: usize = 50;

/// A test of the others' names: every row has at least one.
pub fn rows_trials(others: &[Trial]) -> Vec<Trial> {
    let row = |trial: &Trial| {
        let (_, name) = trial.name().rsplit_once("::")?;
        let (number, _) = name.strip_prefix("http_")?.split_once('_')?;
        number.parse::<usize>().ok()
    };
    let tested: Vec<_> = others.iter().filter_map(row).collect();
    let every_row_has_a_test = move || {
        let missing: Vec<_> = (1..=ROWS).filter(|row| !tested.contains(row)).collect();
        assert!(missing.is_empty(), "no test begins with http_ and one of {missing:?}");
        assert!(tested.iter().all(|row| (1..=ROWS).contains(row)), "a row that is none in {tested:?}");
    };
    let path = concat!(module_path!(), "::every_row_has_a_test");
    vec![crate::support::trial(path, every_row_has_a_test)]
}

/// A gateway that knows these dataservers.
#[track_caller]
fn gateway_and(config: &str, stubs: &[&Stub]) -> Apiserver {
    let gateway = Apiserver::start(&format!("{PATIENT}{config}"));
    gateway.announce(&stubs.iter().map(|stub| stub.addr()).collect::<Vec<_>>());
    gateway
}

/// Sends a request through a gateway to a dataserver that says 200, and returns both ends.
#[track_caller]
fn through(bytes: &[u8]) -> (Reply, Vec<Exchange>) {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    let reply = exchange(gateway.listen, bytes);
    (reply, stub.requests())
}

/// A gateway for requests that it has to refuse, and the dataserver that must not see them.
struct Strict {
    gateway: Apiserver,
    stub: Stub,
}

impl Strict {
    fn new(config: &str) -> Self {
        let stub = Stub::ok("");
        Self { gateway: gateway_and(config, &[&stub]), stub }
    }

    /// The request is refused as every error of the gateway is, and nobody else sees it.
    #[track_caller]
    fn refuses(&self, bytes: &[u8], statuses: &[u16]) {
        let shown = shown(bytes);
        let reply = exchange(self.gateway.listen, bytes);
        assert_refusal(&reply, statuses, &shown);
        assert!(
            self.stub.requests().is_empty(),
            "{shown} reached the dataserver: {:?}",
            self.stub.requests()
        );
    }

    /// As [`refuses`](Self::refuses), and what follows on the connection is not read: it ends.
    #[track_caller]
    fn refuses_and_closes(&self, bytes: &[u8], statuses: &[u16]) {
        self.closes_after(bytes, 1, statuses);
        self.closes_after(bytes, bytes.len(), statuses);
    }

    /// Sends the request in so many bytes at once, and another behind it.
    #[track_caller]
    fn closes_after(&self, bytes: &[u8], step: usize, statuses: &[u16]) {
        let shown = shown(bytes);
        let stream = connect(self.gateway.listen);
        let behind = b"GET /behind HTTP/1.1\r\nHost: behind\r\n\r\n";
        for part in [bytes, &behind[..]].concat().chunks(step.max(1)) {
            // It may be refused before all of it was sent.
            if (&stream).write_all(part).is_err() {
                break;
            }
        }
        let mut reader = BufReader::new(&stream);
        let reply = read_reply(&mut reader, false).unwrap_or_else(|| panic!("no answer to {shown}"));
        assert_refusal(&reply, statuses, &shown);
        assert_eq!(reply.header("connection"), Some("close"), "{shown}");
        assert!(is_over(&mut reader), "the connection goes on after {shown}");
        assert!(
            self.stub.requests().is_empty(),
            "{shown} reached the dataserver: {:?}",
            self.stub.requests()
        );
    }
}

/// An answer of the gateway's own that blames the request.
#[track_caller]
fn assert_refusal(reply: &Reply, statuses: &[u16], shown: &str) {
    assert!(statuses.contains(&reply.status), "{shown} got {reply:?}");
    assert_problem(reply, reply.status, "http_request_");
}

/// An error of the gateway's own.
#[track_caller]
fn assert_problem(reply: &Reply, status: u16, error: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    let proxy_status = reply.header("proxy-status").unwrap_or_else(|| panic!("no Proxy-Status in {reply:?}"));
    assert!(proxy_status.starts_with(&format!("nsq-gateway; error={error}")), "{proxy_status}");
    let document = reply.json();
    assert_eq!(document["status"], status);
    assert!(document["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "no detail in {reply:?}");
}

/// Whether nothing more comes, because the other side has closed or reset the connection.
fn is_over(reader: &mut impl BufRead) -> bool {
    match reader.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// The beginning of some bytes, for a message.
fn shown(bytes: &[u8]) -> String {
    bytes.get(..200).unwrap_or(bytes).escape_ascii().to_string()
}

/// How often a dataserver failed in a way, as the gateway counts it.
fn errors(gateway: &Apiserver, stub: &Stub, kind: &str) -> f64 {
    gateway
        .metric(&format!("gateway_upstream_errors_total{{dataserver=\"{}\",kind=\"{kind}\"}}", stub.addr()))
}

/// A dataserver that takes requests and says nothing.
fn silent() -> Stub {
    Stub::raw(|mut stream| while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {})
}

/// A dataserver that answers after a while.
fn slow(delay: Duration) -> Stub {
    Stub::answering(move |_| {
        crate::support::pause(delay);
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow".to_vec()
    })
}

/// Sends bytes on a connection of its own, which stays open.
#[track_caller]
fn begin(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(to);
    stream.write_all(bytes).unwrap();
    stream
}

/// Waits until so many requests are under way.
#[track_caller]
fn wait_for_in_flight(gateway: &Apiserver, count: usize) {
    eventually(&format!("{count} requests under way"), || {
        let now = gateway.metric("gateway_requests_in_flight");
        ((now - f64::from(u32::try_from(count).unwrap())).abs() < 0.5).then_some(())
    });
}
