//! A gateway that leaves: told to stop, or taken over from, under load and with users who are stuck.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::findings::{Drilled, Finding, at_most, finding, grouped, holds, none};
use crate::fleet::Fleet;
use crate::load::{Answers, Load};
use crate::support::frames::{Field, Frames};
use crate::support::{Apiserver, connect, request, within};

/// How long whoever is stuck has.
const DRAIN: Duration = Duration::from_secs(3);

/// What it may take to cut them off, and to end.
const END: Duration = Duration::from_millis(500);

const SHORT: &str = "timeouts: {drain: 3s}\n";

const PER_SECOND: u32 = 300;

/// How many gateways leave one after another.
const ROUNDS: usize = 6;

/// A gateway that hears the same dataservers.
#[track_caller]
fn beside(fleet: &Fleet, listen: &str, more: &str) -> Apiserver {
    let [nsqd, ..] = fleet.gateway.nsq.unwrap();
    let gateway = Apiserver::start(&format!(
        "gateway: {{listen: '{listen}'}}\ncommon: {{nsqd: ['{nsqd}'], heart_beat_time: 1}}\n{more}"
    ));
    let addrs = fleet.addrs();
    gateway.wait_for_live(&addrs.iter().map(String::as_str).collect::<Vec<_>>());
    gateway
}

/// Takes over from the fleet's gateway, and is the fleet's from then on. The old one is returned.
#[track_caller]
fn take_over(fleet: &mut Fleet, workers: usize, more: &str) -> Apiserver {
    let old = &fleet.gateway;
    let [tcp, http, lookup] = old.nsq.unwrap();
    let config = format!(
        "gateway: {{listen: '{}', workers: {workers}}}
nsq: {{embedded_listen: {{tcp: '{tcp}', http: '{http}', lookup: '{lookup}'}}}}
registry: {{ttl: 2500ms, sweep_interval: 200ms}}
{more}",
        old.listen
    );
    let new = Apiserver::start_with(&config, |command| {
        command.arg("--takeover");
    });
    std::mem::replace(&mut fleet.gateway, new)
}

/// How gateways have left.
#[derive(Default)]
struct Left {
    exits: Vec<Option<i32>>,
    took: Vec<Duration>,
    cut_off: usize,
}

impl Left {
    /// Waits for the end of a gateway that was told to leave at this moment.
    #[track_caller]
    fn wait_for(&mut self, gateway: &mut Apiserver, told: Instant) {
        self.exits.push(gateway.process.wait().code());
        self.took.push(told.elapsed());
        self.cut_off += cut_off(gateway);
    }

    fn findings(&self, limit: Duration) -> Vec<Finding> {
        let longest = self.took.iter().max().copied().unwrap_or_default();
        vec![
            holds(
                &format!("{} left with exit code 0", self.exits.len()),
                self.exits.iter().all(|code| *code == Some(0)),
            ),
            at_most("each after", longest, limit),
            none("connections cut off", self.cut_off),
        ]
    }
}

/// How many connections a gateway says that it has cut off.
fn cut_off(gateway: &Apiserver) -> usize {
    let output = gateway.process.output();
    let told = output.lines().find(|line| line.contains("and were cut off"));
    let told = told.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    told.and_then(|line| line["connections"].as_u64()).and_then(|count| count.try_into().ok()).unwrap_or(0)
}

/// What users saw of it.
fn seen(answers: &Answers) -> Vec<Finding> {
    vec![answers.none_failed(), answers.of_every_kind()]
}

/// Two gateways are restarted in turns; whoever is let in no more at one goes to the other.
pub fn sigterm_under_load() -> Drilled {
    let fleet = Fleet::start(3, "");
    let mut gateways = [(); 2].map(|()| beside(&fleet, "127.0.0.1:0", ""));
    let load = Load::of_every_kind(&gateways.each_ref().map(|gateway| gateway.listen), PER_SECOND);
    let mut left = Left::default();
    for round in 0..ROUNDS {
        load.go_on_for(200);
        let leaving = &mut gateways[round % 2];
        leaving.process.signal("TERM");
        left.wait_for(leaving, Instant::now());
        load.go_on_for(200);
        *leaving = beside(&fleet, &leaving.listen.to_string(), "");
    }
    let mut findings = seen(&load.stop());
    findings.extend(left.findings(Duration::from_secs(3)));
    Ok(findings)
}

/// Users who get nowhere, each in a way of its own.
struct Stuck {
    _http1: Vec<TcpStream>,
    _http2: Frames,
}

impl Stuck {
    /// How many they are.
    const COUNT: usize = 5;

    /// Waits until all of them are stuck.
    #[track_caller]
    fn at(gateway: &Apiserver) -> Self {
        let waits = request("GET /delay/60000", &[], b"");
        let reads_nothing = request("GET /bytes/1000000000", &[], b"");
        let uploads = request("POST /echo", &[("content-length", "1000000")], b"");
        let half_a_head = b"GET / HTTP/1.1\r\nhost:".to_vec();
        let http1 = [waits, reads_nothing, uploads, half_a_head].map(|bytes| {
            let mut stream = connect(gateway.listen);
            stream.write_all(&bytes).unwrap();
            stream
        });
        // A stream on which nothing may be sent (SETTINGS_INITIAL_WINDOW_SIZE 0).
        let mut http2 = Frames::connect(gateway.listen, &[0, 4, 0, 0, 0, 0]);
        let fields: [Field<'_>; 4] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"test"),
            (b":path", b"/bytes/1000000000"),
        ];
        assert!(http2.request(1, &fields, false));
        within(Duration::from_secs(10), "them to be stuck", || {
            let in_flight = gateway.metric("gateway_requests_in_flight");
            // All but the one whose head is not whole.
            (in_flight >= (Self::COUNT - 1) as f64).then_some(())
        });
        Self { _http1: http1.into(), _http2: http2 }
    }
}

/// Those who were stuck were cut off, and the gateway ended when their time was up.
fn cut_off_in_time(gateway: &mut Apiserver, told: Instant) -> Vec<Finding> {
    let exit = gateway.process.wait();
    let took = told.elapsed();
    let cut = cut_off(gateway);
    vec![
        holds("exit code 0", exit.code() == Some(0)),
        at_most("ended after", took, DRAIN + END),
        finding(format!("{} of {} that were stuck cut off", grouped(cut), Stuck::COUNT), cut == Stuck::COUNT),
    ]
}

pub fn sigterm_with_users_who_are_stuck() -> Drilled {
    let fleet = Fleet::start(3, "");
    let mut leaving = beside(&fleet, "127.0.0.1:0", SHORT);
    let _stuck = Stuck::at(&leaving);
    let load = Load::of_every_kind(&[leaving.listen, fleet.gateway.listen], PER_SECOND);
    load.go_on_for(300);
    leaving.process.signal("TERM");
    let ended = cut_off_in_time(&mut leaving, Instant::now());
    load.go_on_for(300);
    let mut findings = seen(&load.stop());
    findings.extend(ended);
    Ok(findings)
}

/// With more workers than before and with fewer.
pub fn taken_over_again_and_again() -> Drilled {
    let mut fleet = Fleet::start(3, "");
    let load = Load::of_every_kind(&[fleet.gateway.listen], PER_SECOND);
    let (mut left, mut evicted) = (Left::default(), 0);
    for round in 0..ROUNDS {
        load.go_on_for(200);
        let told = Instant::now();
        let mut old = take_over(&mut fleet, 1 + round % 3, "");
        left.wait_for(&mut old, told);
        load.go_on_for(200);
        evicted += fleet.evicted();
    }
    let mut findings = seen(&load.stop());
    findings.extend(left.findings(Duration::from_secs(3)));
    findings.push(none("evicted", evicted));
    Ok(findings)
}

pub fn taken_over_with_users_who_are_stuck() -> Drilled {
    let mut fleet = Fleet::start(3, SHORT);
    let _stuck = Stuck::at(&fleet.gateway);
    let load = Load::of_every_kind(&[fleet.gateway.listen], PER_SECOND);
    load.go_on_for(300);
    let mut old = take_over(&mut fleet, 2, "");
    // It was told when the new one was ready.
    let ended = cut_off_in_time(&mut old, Instant::now());
    load.go_on_for(300);
    let mut findings = seen(&load.stop());
    findings.extend(ended);
    findings.push(none("evicted", fleet.evicted()));
    Ok(findings)
}
