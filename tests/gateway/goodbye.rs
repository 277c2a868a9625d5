//! How a dataserver leaves: what it publishes, what it still answers, and when it ends.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::support::{
    Apiserver, Broker, Cluster, DataserverProcess, Heard, Process, Reply, Stub, Subscriber, connect,
    eventually, get, pause, read_reply, request, tools, trial_with, trials,
};

/// What is tried on each kind of NSQ.
type Test = fn(Broker);

pub fn trials() -> Vec<Trial> {
    let tests: Vec<(&str, Test)> = vec![
        ("a_dataserver_says_that_it_drains_serves_on_and_says_that_it_is_down", a_dataserver_leaves),
        ("an_announced_service_says_goodbye_as_well", an_announced_service_leaves),
        ("a_goodbye_reaches_the_nsqds_that_are_left", a_goodbye_reaches_the_nsqds_that_are_left),
        ("the_plain_form_is_host_and_port_and_no_goodbye", the_plain_form),
        ("a_service_whose_probe_fails_drains_and_comes_back", a_service_whose_probe_fails),
        ("faults_22_a_rolling_restart_fails_no_request", a_rolling_restart),
    ];
    let mut trials = Vec::new();
    for (name, test) in tests {
        let real = format!("goodbye::real::{name}");
        trials.push(trial_with(&real, &tools::NSQD, move || test(Broker::Real)));
        let embedded = format!("goodbye::embedded::{name}");
        trials.push(trial_with(&embedded, &Ok(()), move || test(Broker::Embedded)));
    }
    trials.extend(trials![
        what_is_under_way_ends_before_it_is_down,
        timeouts_drain_cuts_off_what_does_not_end,
        dead_nsqds_hold_nobody_up,
        stopped_nsqds_hold_nobody_up_for_long,
        a_second_signal_ends_it_now,
        who_was_never_announced_says_no_goodbye,
        the_plain_form_cannot_say_what_it_speaks,
        who_drains_gets_nothing_while_there_is_another,
    ]);
    trials
}

const LEAVE: &str = "timeouts: {leave: 500ms}\n";

/// Announces a service that is there already.
struct Announcing {
    process: Process,
    _dir: TempDir,
}

impl Announcing {
    fn start(addr: SocketAddr, config: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        Self { process: Process::start(announce(addr, &file).args(args)), _dir: dir }
    }
}

fn announce(addr: SocketAddr, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dataserver"));
    command.args(["announce", "--addr", &addr.to_string(), "--config"]).arg(config).env_remove("RUST_LOG");
    command
}

fn subscribe(cluster: &Cluster) -> Vec<Subscriber> {
    cluster.nsqds.iter().map(|nsqd| Subscriber::new(nsqd.tcp)).collect()
}

/// Everything that was heard, on whichever nsqd, in order.
fn all(subscribers: &[Subscriber]) -> Vec<Heard> {
    let mut heard: Vec<_> = subscribers.iter().flat_map(Subscriber::heard).collect();
    heard.sort_by_key(|heard| heard.at);
    heard
}

#[track_caller]
fn wait_for_one(subscribers: &[Subscriber], state: &str) {
    eventually(&format!("a heartbeat that says {state}"), || {
        all(subscribers).iter().any(|heard| heard.state() == state).then_some(())
    });
}

/// One process speaks, each time with a higher number; only a goodbye comes on more than one nsqd.
#[track_caller]
fn assert_is_one_life(heard: &[Heard]) {
    let ids: BTreeSet<_> = heard.iter().map(|heard| heard.field("id").to_string()).collect();
    assert_eq!(ids.len(), 1, "{heard:?}");
    let by_seq: BTreeSet<_> =
        heard.iter().map(|heard| (heard.field("seq").as_u64().unwrap(), heard.state())).collect();
    let seqs: Vec<_> = by_seq.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "{heard:?}");
    let states: Vec<_> = by_seq.iter().map(|(_, state)| state.as_str()).collect();
    assert!(states.is_sorted_by_key(|state| ["up", "draining", "down"].iter().position(|s| s == state)));
}

fn a_dataserver_leaves(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let hears = subscribe(&cluster);
    let mut dataserver = DataserverProcess::start(&cluster.config(false, LEAVE));
    let addr: SocketAddr = dataserver.addr.parse().unwrap();
    wait_for_one(&hears, "up");
    let mut kept = BufReader::new(connect(addr));
    let mut ask = || {
        kept.get_mut().write_all(&request("GET /", &[], b"")).unwrap();
        read_reply(&mut kept, false).expect("no answer")
    };
    assert_eq!(ask().header("connection"), None);
    dataserver.process.signal("TERM");
    let draining: Vec<_> = hears.iter().map(|hears| hears.wait_for("draining")).collect();
    // It serves on, on connections that were kept and on new ones, and each answer is the last of its connection.
    for reply in [ask(), get(addr, "/")] {
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    }
    assert_eq!(dataserver.process.wait().code(), Some(0));
    assert!(TcpStream::connect(addr).is_err());
    for (hears, draining) in hears.iter().zip(draining) {
        let left = hears.wait_for("down").at.duration_since(draining.at);
        assert!(left >= Duration::from_millis(400), "it served for {left:?} only");
        assert_eq!(draining.field("addr"), dataserver.addr);
    }
    assert_is_one_life(&all(&hears));
    assert!(!dataserver.process.output().contains("panicked"), "{}", dataserver.process.output());
}

fn an_announced_service_leaves(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let hears = subscribe(&cluster);
    let stub = Stub::ok("");
    let args = ["--proto", "http/1.1"];
    let mut announcer = Announcing::start(stub.addr(), &cluster.config(false, LEAVE), &args);
    wait_for_one(&hears, "up");
    announcer.process.signal("INT");
    let begun = Instant::now();
    assert_eq!(announcer.process.wait().code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    for hears in &hears {
        hears.wait_for("draining");
        assert_eq!(hears.wait_for("down").field("proto"), "http/1.1");
    }
    assert_is_one_life(&all(&hears));
}

fn a_goodbye_reaches_the_nsqds_that_are_left(broker: Broker) {
    let mut cluster = Cluster::start(broker, 3);
    let hears = subscribe(&cluster);
    let mut dataserver = DataserverProcess::start(&cluster.config(false, LEAVE));
    wait_for_one(&hears, "up");
    // One is gone, and one is there and says nothing.
    cluster.nsqds[0].kill();
    cluster.nsqds[1].signal("STOP");
    dataserver.process.signal("TERM");
    let begun = Instant::now();
    hears[2].wait_for("draining");
    hears[2].wait_for("down");
    assert_eq!(dataserver.process.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn the_plain_form(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    let hears = subscribe(&cluster);
    let stub = Stub::ok("");
    let config = cluster.config(false, LEAVE);
    let mut announcer = Announcing::start(stub.addr(), &config, &["--plain"]);
    let mut dataserver = DataserverProcess::start_on("127.0.0.1:0", &config, &["--plain"]);
    let addrs = BTreeSet::from([stub.addr().to_string(), dataserver.addr.clone()]);
    let bodies = || all(&hears).into_iter().map(|heard| heard.body);
    eventually("both to be announced", || (bodies().collect::<BTreeSet<_>>() == addrs).then_some(()));
    for process in [&mut announcer.process, &mut dataserver.process] {
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
    }
    let heard = bodies().count();
    pause(Duration::from_millis(500));
    assert_eq!((bodies().count(), bodies().collect()), (heard, addrs));
}

fn a_service_whose_probe_fails(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let hears = subscribe(&cluster);
    let healthy = Arc::new(AtomicBool::new(true));
    let health = healthy.clone();
    let service = Stub::answering(move |_| {
        let status = if health.load(Ordering::SeqCst) { "200 OK" } else { "500 Broken" };
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    });
    let probe = format!("http://{}/health", service.addr());
    let _announcer = Announcing::start(service.addr(), &cluster.config(false, LEAVE), &["--probe", &probe]);
    wait_for_one(&hears, "up");
    healthy.store(false, Ordering::SeqCst);
    for hears in &hears {
        hears.wait_for("draining");
    }
    // Once; then it is silent.
    pause(Duration::from_millis(2500));
    let heard = all(&hears);
    assert_eq!(heard.iter().filter(|heard| heard.state() == "draining").count(), 2, "{heard:?}");
    assert_eq!(heard.last().unwrap().state(), "draining", "{heard:?}");
    healthy.store(true, Ordering::SeqCst);
    let back = eventually("up again", || all(&hears).last().filter(|heard| heard.state() == "up").cloned());
    assert_eq!(back.field("id"), heard[0].field("id"));
    assert!(back.field("seq").as_u64() > heard.last().unwrap().field("seq").as_u64());
}

fn what_is_under_way_ends_before_it_is_down() {
    let cluster = Cluster::start(Broker::Embedded, 1);
    let hears = subscribe(&cluster);
    let mut dataserver = DataserverProcess::start(&cluster.config(false, "timeouts: {leave: 100ms}\n"));
    wait_for_one(&hears, "up");
    let mut slow = BufReader::new(connect(dataserver.addr.parse().unwrap()));
    slow.get_mut().write_all(&request("POST /delay/3000", &[], b"")).unwrap();
    pause(Duration::from_millis(100));
    dataserver.process.signal("TERM");
    let reply = read_reply(&mut slow, false).expect("no answer");
    let answered = Instant::now();
    assert_eq!((reply.status, reply.text().as_str()), (200, "after 3000 ms\n"));
    assert!(hears[0].wait_for("down").at + Duration::from_millis(50) >= answered);
    assert_eq!(dataserver.process.wait().code(), Some(0));
    // Longer than a heartbeat: nobody may take it for lost meanwhile.
    let heard = all(&hears);
    let draining = heard.iter().filter(|heard| heard.state() == "draining").count();
    assert!((2..=4).contains(&draining), "{heard:?}");
    assert_is_one_life(&heard);
}

fn timeouts_drain_cuts_off_what_does_not_end() {
    let cluster = Cluster::start(Broker::Embedded, 1);
    let hears = subscribe(&cluster);
    let config = cluster.config(false, "timeouts: {leave: 100ms, drain: 500ms}\n");
    let mut dataserver = DataserverProcess::start(&config);
    wait_for_one(&hears, "up");
    let mut stuck = connect(dataserver.addr.parse().unwrap());
    stuck.write_all(&request("GET /delay/60000", &[], b"")).unwrap();
    pause(Duration::from_millis(100));
    dataserver.process.signal("TERM");
    let begun = Instant::now();
    assert_eq!(dataserver.process.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(dataserver.process.output().contains("cut off"), "{}", dataserver.process.output());
    hears[0].wait_for("down");
}

fn dead_nsqds_hold_nobody_up() {
    let mut cluster = Cluster::start(Broker::Embedded, 2);
    let hears = subscribe(&cluster);
    let config = cluster.config(false, LEAVE);
    let stub = Stub::ok("");
    let mut dataserver = DataserverProcess::start(&config);
    let mut announcer = Announcing::start(stub.addr(), &config, &[]);
    eventually("both to be announced", || (all(&hears).len() >= 2).then_some(()));
    cluster.nsqds[0].kill();
    cluster.nsqds[1].kill();
    for process in [&mut dataserver.process, &mut announcer.process] {
        process.signal("TERM");
        let begun = Instant::now();
        assert_eq!(process.wait().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(process.output().contains("gateways cannot be told"), "{}", process.output());
    }
}

fn stopped_nsqds_hold_nobody_up_for_long() {
    let cluster = Cluster::start(Broker::Embedded, 2);
    let hears = subscribe(&cluster);
    let mut dataserver = DataserverProcess::start(&cluster.config(false, LEAVE));
    wait_for_one(&hears, "up");
    for nsqd in &cluster.nsqds {
        nsqd.signal("STOP");
    }
    dataserver.process.signal("TERM");
    let begun = Instant::now();
    assert_eq!(dataserver.process.wait().code(), Some(0));
    // timeouts.leave, and nsq.connect_timeout for the last word.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

fn a_second_signal_ends_it_now() {
    let cluster = Cluster::start(Broker::Embedded, 1);
    let hears = subscribe(&cluster);
    let mut dataserver =
        DataserverProcess::start(&cluster.config(false, "timeouts: {leave: 1m, drain: 1m}\n"));
    wait_for_one(&hears, "up");
    dataserver.process.signal("TERM");
    hears[0].wait_for("draining");
    pause(Duration::from_millis(500));
    assert!(dataserver.process.is_running());
    dataserver.process.signal("INT");
    let begun = Instant::now();
    assert_eq!(dataserver.process.wait().code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(dataserver.process.output().contains("told to stop again"), "{}", dataserver.process.output());
}

fn who_was_never_announced_says_no_goodbye() {
    let cluster = Cluster::start(Broker::Embedded, 1);
    let hears = subscribe(&cluster);
    let refusing = Stub::refusing();
    let probe = format!("http://{refusing}/");
    let mut announcer = Announcing::start(refusing, &cluster.config(false, LEAVE), &["--probe", &probe]);
    announcer.process.wait_for("refusal", |line| line.contains("its probe fails").then_some(()));
    announcer.process.signal("TERM");
    assert_eq!(announcer.process.wait().code(), Some(0));
    pause(Duration::from_millis(200));
    assert!(hears[0].heard().is_empty(), "{:?}", hears[0].heard());
}

fn the_plain_form_cannot_say_what_it_speaks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, "").unwrap();
    let output = announce(Stub::refusing(), &file).args(["--plain", "--proto", "h2c"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--plain") && said.contains("--proto"), "{said}");
}

fn who_drains_gets_nothing_while_there_is_another() {
    let gateway = Apiserver::start("");
    let (leaving, other) = (Stub::ok("leaving"), Stub::ok("other"));
    gateway.announce(&[other.addr()]);
    let say = |seq: u64, state: &str| {
        let addr = leaving.addr();
        gateway.heartbeat(&format!(r#"{{"addr":"{addr}","id":"x","seq":{seq},"state":"{state}"}}"#));
        let path = format!("/dataservers/{addr}");
        let listed = if state == "up" { "live" } else { state };
        eventually(state, || (get(gateway.listen, &path).json()["state"] == listed).then_some(()));
    };
    let answering = || (0..40).map(|_| get(gateway.listen, "/").text()).collect::<BTreeSet<_>>();
    let both = BTreeSet::from(["leaving".to_owned(), "other".to_owned()]);
    say(1, "up");
    eventually("both to answer", || (answering() == both).then_some(()));
    say(2, "draining");
    assert_eq!(answering(), BTreeSet::from(["other".to_owned()]));
    // It has changed its mind; what it said before arrives late.
    say(4, "up");
    gateway.heartbeat(&format!(r#"{{"addr":"{}","id":"x","seq":3,"state":"draining"}}"#, leaving.addr()));
    pause(Duration::from_millis(100));
    eventually("both to answer", || (answering() == both).then_some(()));
    // Better than nobody.
    say(5, "draining");
    let other = other.addr();
    gateway.heartbeat(&format!(r#"{{"addr":"{other}","state":"down"}}"#));
    eventually("the other to have left", || (gateway.live() == [leaving.addr().to_string()]).then_some(()));
    assert_eq!(answering(), BTreeSet::from(["leaving".to_owned()]));
}

/// What came of the requests of some users who ask one after the other.
struct Load {
    stop: Arc<AtomicBool>,
    users: Vec<std::thread::JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    /// Half of the users get, half post.
    fn start(gateway: SocketAddr, users: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let user = |n: usize| {
            let (stop, posts) = (stop.clone(), n.is_multiple_of(2));
            std::thread::spawn(move || {
                let (mut answered, mut failed) = (0, Vec::new());
                let mut stream = BufReader::new(connect(gateway));
                while !stop.load(Ordering::SeqCst) {
                    let body = format!("{n}-{answered}");
                    let sent = if posts {
                        request("POST /echo", &[], body.as_bytes())
                    } else {
                        request("GET /", &[], b"")
                    };
                    let is_answer = |reply: &Reply| reply.status == 200 && (!posts || reply.text() == body);
                    let written = stream.get_mut().write_all(&sent);
                    let reply = written.ok().and_then(|()| read_reply(&mut stream, false));
                    if reply.as_ref().is_some_and(is_answer) {
                        answered += 1;
                    } else {
                        failed.push(format!("{reply:?}"));
                        stream = BufReader::new(connect(gateway));
                    }
                }
                (answered, failed)
            })
        };
        let users = (0..users).map(user).collect();
        Self { stop, users }
    }

    /// How many were answered, and what went wrong with the others.
    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let each = self.users.into_iter().map(|user| user.join().unwrap());
        each.fold((0, Vec::new()), |(answered, failed), user| (answered + user.0, [failed, user.1].concat()))
    }
}

/// Each says goodbye before it stops, so that not one request has to be sent a second time.
fn a_rolling_restart(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let gateway = Apiserver::start(&cluster.config(false, "gateway: {workers: 2}\n"));
    let config = cluster.config(false, "");
    let mut dataservers: Vec<_> = (0..3).map(|_| DataserverProcess::start(&config)).collect();
    let addrs: Vec<_> = dataservers.iter().map(|dataserver| dataserver.addr.clone()).collect();
    let live = || gateway.wait_for_live(&addrs.iter().map(String::as_str).collect::<Vec<_>>());
    live();
    let load = Load::start(gateway.listen, 6);
    for _ in 0..2 {
        for (dataserver, addr) in dataservers.iter_mut().zip(&addrs) {
            dataserver.process.signal("TERM");
            assert_eq!(dataserver.process.wait().code(), Some(0));
            *dataserver = DataserverProcess::start_on(addr, &config, &[]);
            live();
        }
    }
    let (answered, failed) = load.end();
    assert!(answered > 1000, "{answered}");
    assert!(failed.is_empty(), "{} of {answered} failed: {:?}", failed.len(), failed.first());
    let metrics = gateway.metrics();
    let errors: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("gateway_upstream_errors_total")).collect();
    assert!(errors.is_empty(), "{errors:?}");
    // Of each, but that the next process may be heard before the last word of the one before it.
    assert!(gateway.metric("gateway_evictions_total{reason=\"goodbye\"}") >= 1.0, "{metrics}");
    assert!(gateway.metric("gateway_evictions_total{reason=\"expired\"}") < 1.0, "{metrics}");
}
