//! Request smuggling: requests that two programs in a row could take for different ones, or for more than one.
//!
//! Each case of the table is sent with a harmless request behind it. The dataserver must see what the table says and
//! perhaps the harmless request, or nothing; never anything else.

mod cases;
mod over_http2;
mod peers;
mod recorder;

use std::fmt::Write as _;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use libtest_mimic::Trial;

use super::{gateway_and, shown};
use crate::support::{Apiserver, connect, pause, read_reply, tools, trial_with, trials};
use cases::{Case, Verdict, cases};
use peers::Peer;
use recorder::{Reached, Recorder, Request};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![every_case_at_once, every_case_byte_by_byte, the_table_has_no_two_of_a_name];
    trials.extend(over_http2::trials());
    let name = concat!(module_path!(), "::what_nginx_and_haproxy_refuse_is_not_forwarded");
    trials.push(trial_with(name, &tools::PEERS, what_nginx_and_haproxy_refuse_is_not_forwarded));
    trials
}

/// What waits for more ends soon, as it would have to in the end.
const CONFIG: &str = "timeouts: {request_head: 1s, response_head: 2s, idle_body: 1s}\n";

const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: canary\r\nConnection: close\r\n\r\n";

fn canary() -> Request {
    Request { method: "GET".into(), target: "/canary".into(), host: "canary".into(), body: Vec::new() }
}

/// What came of a case.
struct Outcome {
    reached: Vec<Reached>,
    /// The final statuses of the answers that are whole.
    statuses: Vec<u16>,
    closed: bool,
}

impl Outcome {
    fn whole(&self) -> Vec<&Request> {
        let whole = self.reached.iter().filter_map(|reached| match reached {
            Reached::Whole(request) => Some(request),
            Reached::CutShort | Reached::Fault(_) => None,
        });
        whole.collect()
    }

    fn is_refusal(&self) -> bool {
        self.whole().iter().all(|request| **request == canary()) && self.is_free_of_faults()
    }

    fn is_free_of_faults(&self) -> bool {
        !self.reached.iter().any(|reached| matches!(reached, Reached::Fault(_)))
    }

    /// A few words for a table.
    fn summary(&self) -> String {
        let mut text = format!("{:?}", self.statuses);
        for reached in &self.reached {
            let _ = match reached {
                Reached::Whole(request) => write!(text, " {}", shown(request.target.as_bytes())),
                Reached::CutShort => write!(text, " cut"),
                Reached::Fault(fault) => write!(text, " FAULT {fault}"),
            };
        }
        text
    }
}

/// Sends a case in pieces of so many bytes, and waits for the end of its connection.
fn send(to: SocketAddr, recorder: &Recorder, case: &Case, step: usize) -> Outcome {
    recorder.take();
    let mut stream = connect(to);
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    for piece in [&case.bytes, CANARY].concat().chunks(step) {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut got = Vec::new();
    let ended = stream.read_to_end(&mut got);
    let closed = ended.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true);
    let mut reader = BufReader::new(&got[..]);
    let mut statuses = Vec::new();
    while let Some(reply) = read_reply(&mut reader, statuses.is_empty() && case.bytes.starts_with(b"HEAD ")) {
        if reply.status / 100 != 1 && reply.complete {
            statuses.push(reply.status);
        }
    }
    // What was sent on and not answered may still be on its way.
    pause(Duration::from_millis(5));
    Outcome { reached: recorder.take(), statuses, closed }
}

/// What is wrong with what a proxy made of a case.
fn complaint(case: &Case, outcome: &Outcome) -> Option<String> {
    let whole = outcome.whole();
    let (first, rest) = (outcome.statuses.first(), outcome.statuses.get(1..).unwrap_or_default());
    if case.verdict == Verdict::Deny && matches!(first, Some(400..=599)) && *rest == vec![200; whole.len()] {
        let is_canary = whole.is_empty() || whole == [&canary()];
        return (!is_canary || !outcome.is_free_of_faults())
            .then(|| format!("{}: {}", case.name, outcome.summary()));
    }
    let (canary, refused) = (canary(), case.verdict != Verdict::Forward && whole.is_empty());
    let meaning = case.meaning.as_ref().filter(|_| case.verdict != Verdict::Refuse);
    let what = if !outcome.is_free_of_faults() {
        "the dataserver cannot read what it got"
    } else if !outcome.closed {
        "the connection does not end"
    } else if refused {
        match outcome.statuses[..] {
            [400..=599] => return None,
            _ => "it was refused without an error of its own",
        }
    } else if whole.first().copied() != meaning {
        "it is not that request"
    } else if whole.len() > 2 || whole.get(1).is_some_and(|second| **second != canary) {
        "another request was made of it"
    } else if outcome.statuses != vec![200; whole.len()] {
        "the answers are not those of the dataserver"
    } else {
        return None;
    };
    let (name, bytes) = (case.name, shown(&case.bytes));
    Some(format!(
        "{name}: {what}\n    sent {bytes}\n    got  {:?} for {:?}",
        outcome.statuses, outcome.reached
    ))
}

fn gateway() -> (Apiserver, Recorder) {
    let recorder = Recorder::new();
    (gateway_and(CONFIG, &[recorder.stub()]), recorder)
}

#[track_caller]
fn every_case(step: usize) {
    let (gateway, recorder) = gateway();
    let sent = |case: &Case| complaint(case, &send(gateway.listen, &recorder, case, step));
    let complaints: Vec<_> = cases().iter().filter_map(sent).collect();
    assert!(complaints.is_empty(), "{} cases:\n{}", complaints.len(), complaints.join("\n"));
}

fn every_case_at_once() {
    every_case(usize::MAX);
}

fn every_case_byte_by_byte() {
    every_case(1);
}

fn the_table_has_no_two_of_a_name() {
    let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
    assert!(names.len() >= 120, "{}", names.len());
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(twice.is_none(), "{twice:?}");
}

/// What those refuse that have been attacked for twenty years needs a reason to be forwarded; there is none so far.
fn what_nginx_and_haproxy_refuse_is_not_forwarded() {
    let (gateway, recorder) = gateway();
    let peers = [Peer::nginx(recorder.addr()), Peer::haproxy(recorder.addr())];
    let mut complaints = Vec::new();
    println!("{:40} | gateway | {} | {}", "case", peers[0].name, peers[1].name);
    for case in cases() {
        let ours = send(gateway.listen, &recorder, &case, usize::MAX);
        let theirs: Vec<_> = peers.iter().map(|peer| send(peer.addr, &recorder, &case, usize::MAX)).collect();
        let columns: Vec<_> = theirs.iter().map(Outcome::summary).collect();
        println!("{:40} | {} | {}", case.name, ours.summary(), columns.join(" | "));
        if theirs.iter().all(Outcome::is_refusal) && !ours.is_refusal() {
            complaints.push(case.name);
        }
    }
    assert!(complaints.is_empty(), "forwarded though both refuse: {complaints:#?}");
}
