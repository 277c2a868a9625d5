//! A gateway that takes over from one that runs: asked for, without a request that fails.

mod lingering;
mod told_to_stop;

use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::{
    Apiserver, DataserverProcess, Process, Stub, connect, event, eventually, get, pause, read_reply, request,
    tools, trial_with, trials, within,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        faults_27_a_new_gateway_takes_over_and_no_request_fails,
        the_admin_paths_and_the_embedded_nsq_are_taken_over_as_well,
        what_is_published_when_the_new_one_is_ready_reaches_it,
        a_new_gateway_that_fails_to_start_changes_nothing,
        a_new_gateway_that_reaches_no_dataserver_takes_over_nothing,
        a_new_gateway_that_refuses_every_dataserver_takes_over_nothing,
        who_joins_meanwhile_does_not_stand_in_for_those_that_were_there,
        one_dataserver_that_answers_is_enough,
        an_empty_set_is_taken_over_as_well,
        a_new_gateway_takes_no_heartbeats_from_the_old_one_before_it_has_taken_over,
        without_a_gateway_there_a_takeover_is_a_start,
        nobody_else_is_taken_over_from,
        the_old_one_ends_before_its_deadline_and_its_snapshot_is_not_written_over,
    ];
    let other = concat!(module_path!(), "::in_another_pid_namespace_as_well");
    trials.push(trial_with(other, &tools::PID_NAMESPACE, in_another_pid_namespace_as_well));
    let without = concat!(module_path!(), "::a_new_gateway_without_file_descriptors_changes_nothing");
    trials.push(trial_with(without, &tools::PRLIMIT, a_new_gateway_without_file_descriptors_changes_nothing));
    trials.extend(lingering::trials());
    trials.extend(told_to_stop::trials());
    trials
}

/// One container's gateway replaces another's, on the host's network. Neither sees the other's process.
fn in_another_pid_namespace_as_well() {
    let apart = |command: std::process::Command| {
        let words = tools::PID_NAMESPACE.as_ref().unwrap();
        let mut unshare = std::process::Command::new(words[0]);
        unshare.args(&words[1..]).arg(command.get_program()).args(command.get_args()).env_remove("RUST_LOG");
        unshare
    };
    let stub = Stub::ok("answered");
    let mut old = first(1, "");
    old.announce(&[stub.addr()]);
    for new_is_apart in [true, false] {
        let new = Apiserver::start_by(&where_it_listens(&old, 1, REGISTRY), |mut command| {
            command.arg("--takeover");
            Process::start(&mut if new_is_apart { apart(command) } else { command })
        });
        assert_eq!(old.process.wait().code(), Some(0));
        assert_eq!(get(new.listen, "/").text(), "answered");
        old = new;
    }
}

/// A config of a gateway where another one listens.
fn where_it_listens(gateway: &Apiserver, workers: usize, more: &str) -> String {
    let [tcp, http, lookup] = gateway.nsq.unwrap();
    let admin = gateway.admin.map(|admin| format!(", admin_listen: '{admin}'")).unwrap_or_default();
    format!(
        "gateway: {{listen: '{}', workers: {workers}{admin}}}
nsq: {{embedded_listen: {{tcp: '{tcp}', http: '{http}', lookup: '{lookup}'}}}}
common: {{heart_beat_time: 1}}
{more}",
        gateway.listen
    )
}

const REGISTRY: &str = "registry: {ttl: 1h}\n";

#[track_caller]
fn take_over(config: &str) -> Apiserver {
    Apiserver::start_with(config, |command| {
        command.arg("--takeover");
    })
}

fn first(workers: usize, more: &str) -> Apiserver {
    Apiserver::start(&format!(
        "gateway: {{workers: {workers}}}\ncommon: {{heart_beat_time: 1}}\n{REGISTRY}{more}"
    ))
}

/// Users who ask all the time, half of them on connections of their own each time.
struct Users {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Users {
    fn of(to: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let threads = (0..6).map(|n| {
            let (stop, answered) = (stop.clone(), answered.clone());
            std::thread::spawn(move || {
                let mut kept = None;
                while !stop.load(Ordering::SeqCst) {
                    let mut stream = kept.take().unwrap_or_else(|| connect(to));
                    let (method, body) =
                        if n % 3 == 0 { ("POST /", &b"body"[..]) } else { ("GET /", &b""[..]) };
                    stream.write_all(&request(method, &[], body)).unwrap();
                    let reply = read_reply(&mut BufReader::new(&stream), false).expect("no answer");
                    assert_eq!(reply.text(), "answered");
                    let closes = reply.header("connection") == Some("close");
                    kept = (n % 2 == 0 && !closes).then_some(stream);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        Self { threads: threads.collect(), stop, answered }
    }

    #[track_caller]
    fn go_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually("answers", || (self.answered.load(Ordering::SeqCst) > before + 100).then_some(()));
    }

    #[track_caller]
    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a request failed");
        }
    }
}

/// Several times in a row, with more workers and with fewer.
fn faults_27_a_new_gateway_takes_over_and_no_request_fails() {
    let stub = Stub::ok("answered");
    let mut old = first(2, "");
    old.announce(&[stub.addr()]);
    let listen = old.listen;
    let users = Users::of(listen);
    users.go_on();
    for workers in [3, 1, 2] {
        let new = take_over(&where_it_listens(&old, workers, REGISTRY));
        assert_eq!(new.listen, listen);
        old.process.wait_for("its end", |line| line.contains("another gateway has taken over").then_some(()));
        assert_eq!(old.process.wait().code(), Some(0));
        assert_eq!(old.process.count("cut off"), 0);
        let taken_over = new.process.wait_for("the takeover", |line| event(line, "taken over"));
        assert_eq!(taken_over["pid"], old.process.id(), "whom it has taken over from");
        users.go_on();
        assert_eq!(new.live(), [stub.addr().to_string()]);
        old = new;
    }
    users.stop();
}

fn the_admin_paths_and_the_embedded_nsq_are_taken_over_as_well() {
    let mut old = Apiserver::start(
        "gateway: {workers: 2, admin_listen: '127.0.0.1:0'}\ncommon: {heart_beat_time: 1}\nregistry: {ttl: 3s}\n",
    );
    let nsq = old.nsq.unwrap();
    let beating =
        DataserverProcess::start(&format!("common: {{heart_beat_time: 1, nsqd: ['{}']}}\n", nsq[0]));
    old.wait_for_live(&[&beating.addr]);
    let new = take_over(&where_it_listens(&old, 2, "registry: {ttl: 3s}\n"));
    assert_eq!(old.process.wait().code(), Some(0));
    assert_eq!((new.admin, new.nsq), (old.admin, old.nsq));
    // Its heartbeats reach the new one: it is heard, and does not expire.
    let path = format!("/dataservers/{}", beating.addr);
    eventually("heartbeats", || {
        let told = get(new.admin.unwrap(), &path).json();
        (told["heartbeats"].as_u64() >= Some(3)).then_some(())
    });
    assert_eq!(get(new.listen, "/").status, 200);
}

/// Every heartbeat from then on: none goes to the old one, which ends. Also of a channel that both read.
fn what_is_published_when_the_new_one_is_ready_reaches_it() {
    let stub = Stub::ok("answered");
    let mut old = first(1, "");
    old.announce(&[stub.addr()]);
    for round in 0..6 {
        let channel = if round > 2 { "nsq: {channel: ch1, " } else { "nsq: {" };
        let new = take_over(&where_it_listens(&old, 1, REGISTRY).replace("nsq: {", channel));
        let addrs: Vec<String> = (0..20).map(|n| format!("127.0.0.{}:{}", 9 + round, 2000 + n)).collect();
        for addr in &addrs {
            new.heartbeat(addr);
        }
        let heard = || {
            let told = get(new.listen, "/dataservers").text();
            addrs.iter().all(|addr| told.contains(addr.as_str())).then_some(())
        };
        within(Duration::from_secs(5), "the heartbeats", heard);
        assert_eq!(old.process.wait().code(), Some(0));
        old = new;
    }
}

/// The process has the sockets and ends: the old one goes on as if nothing had been.
fn a_new_gateway_that_fails_to_start_changes_nothing() {
    let stub = Stub::ok("answered");
    let mut old = first(2, "");
    old.announce(&[stub.addr()]);
    let users = Users::of(old.listen);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let config = where_it_listens(&old, 2, REGISTRY);
    let config = config.replace("workers: 2", &format!("admin_listen: '{}'", taken.local_addr().unwrap()));
    std::fs::write(&file, config).unwrap();
    let mut new = Process::start(Apiserver::command(&file).arg("--takeover"));
    assert_eq!(new.wait().code(), Some(1));
    assert!(new.output().contains("gateway.admin_listen: cannot listen"), "{}", new.output());
    old.process.wait_for("word of it", |line| line.contains("nobody has taken over").then_some(()));
    users.go_on();
    assert!(old.process.is_running());
    // And the next one can.
    let _new = take_over(&where_it_listens(&old, 2, REGISTRY));
    assert_eq!(old.process.wait().code(), Some(0));
    users.go_on();
    users.stop();
}

/// Enough of them for its sockets, and not for the runtimes of its workers.
fn a_new_gateway_without_file_descriptors_changes_nothing() {
    let stub = Stub::ok("answered");
    let mut old = first(2, "");
    old.announce(&[stub.addr()]);
    let users = Users::of(old.listen);
    let file = old.config.with_file_name("new.yaml");
    std::fs::write(&file, where_it_listens(&old, 64, REGISTRY)).unwrap();
    for limit in ["128", "256"] {
        let command = Apiserver::command(&file);
        let mut limited = std::process::Command::new(tools::PRLIMIT.as_ref().unwrap());
        limited.arg(format!("--nofile={limit}:{limit}")).arg(command.get_program()).args(command.get_args());
        let mut new = Process::start(limited.arg("--takeover").env_remove("RUST_LOG"));
        assert_eq!(new.wait().code(), Some(1));
        assert!(new.output().contains("Too many open files"), "{}", new.output());
        users.go_on();
        assert!(old.process.is_running());
    }
    let _new = take_over(&where_it_listens(&old, 64, REGISTRY));
    assert_eq!(old.process.wait().code(), Some(0));
    users.go_on();
    users.stop();
}

/// It asks by a GET, which the dataserver does not answer well.
fn a_new_gateway_that_reaches_no_dataserver_takes_over_nothing() {
    let failing = Stub::answering(|_| b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec());
    let old = first(1, "");
    old.announce(&[failing.addr()]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let registry = "registry: {ttl: 1h, probe: {path: /alive, timeout: 200ms}}\n";
    std::fs::write(&file, where_it_listens(&old, 1, registry)).unwrap();
    let mut new = Process::start(Apiserver::command(&file).arg("--takeover"));
    assert_eq!(new.wait().code(), Some(1));
    let why = "none of the 1 dataservers of process";
    assert!(new.output().contains(why) && new.output().contains("nothing is taken over"), "{}", new.output());
    assert!(!new.output().contains("panicked"), "it ends in order: {}", new.output());
    assert_eq!(get(old.listen, "/").status, 500, "it still forwards");
}

/// With this config; it ends with 1. Returns what it said.
#[track_caller]
fn fails_to_take_over(config: &str, meanwhile: impl FnOnce(&mut Process)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, config).unwrap();
    let mut new = Process::start(Apiserver::command(&file).arg("--takeover"));
    meanwhile(&mut new);
    assert_eq!(new.wait().code(), Some(1));
    let said = new.output();
    assert!(said.contains("nothing is taken over") && !said.contains("panicked"), "{said}");
    said
}

/// Its users would get 503s, from a set that is empty.
fn a_new_gateway_that_refuses_every_dataserver_takes_over_nothing() {
    let [one, two] = [Stub::ok("answered"), Stub::ok("answered")];
    let mut old = first(1, "");
    old.announce(&[one.addr(), two.addr()]);
    let registry = "registry: {ttl: 1h, allow: [10.0.0.0/8]}\n";
    let said = fails_to_take_over(&where_it_listens(&old, 1, registry), |_| {});
    assert!(said.contains("all 2 dataservers of process") && said.contains("registry.allow"), "{said}");
    // Nor if there is room for one alone, and that one does not answer.
    let registry = "registry: {ttl: 1h, capacity: 1, probe: {path: /alive, timeout: 200ms}}\n";
    let failing = Stub::answering(|_| b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec());
    let other = first(1, "");
    other.announce(&[failing.addr(), "127.0.0.9:1".parse().unwrap()]);
    let said = fails_to_take_over(&where_it_listens(&other, 1, registry), |_| {});
    assert!(said.contains("none of the 2 dataservers of process"), "{said}");
    assert!(said.contains("1 of which this config refuses"), "{said}");
    assert_eq!(get(old.listen, "/").status, 200, "it still forwards");
    assert!(old.process.is_running());
}

/// A dataserver is heard while the new gateway probes the others, and would answer.
fn who_joins_meanwhile_does_not_stand_in_for_those_that_were_there() {
    let failing = Stub::answering(|_| b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec());
    let joins = Stub::ok("answered");
    let old = first(1, "");
    old.announce(&[failing.addr()]);
    let registry = "registry: {ttl: 1h, probe: {path: /alive, timeout: 200ms}}\n";
    let said = fails_to_take_over(&where_it_listens(&old, 1, registry), |new| {
        new.wait_for("the old one", |line| line.contains("taking over from the gateway").then_some(()));
        for _ in 0..200 {
            if !new.is_running() {
                break;
            }
            old.heartbeat(&joins.addr().to_string());
            pause(Duration::from_millis(50));
        }
    });
    assert!(said.contains("none of the 1 dataservers of process"), "{said}");
}

/// Of many that are gone.
fn one_dataserver_that_answers_is_enough() {
    let stub = Stub::ok("answered");
    let mut old = first(1, "");
    let gone = (1..=5).map(|port| format!("127.0.0.9:{port}").parse().unwrap());
    old.announce(&gone.chain([stub.addr()]).collect::<Vec<_>>());
    let new = take_over(&where_it_listens(&old, 1, REGISTRY));
    assert_eq!(old.process.wait().code(), Some(0));
    assert_eq!(new.in_rotation(), [stub.addr().to_string()]);
    assert_eq!(get(new.listen, "/").text(), "answered");
}

/// There was nobody who could be missing.
fn an_empty_set_is_taken_over_as_well() {
    let mut old = first(1, "");
    let new = take_over(&where_it_listens(&old, 1, REGISTRY));
    assert_eq!(old.process.wait().code(), Some(0));
    assert_eq!(get(new.listen, "/healthz").status, 200);
}

/// Both could accept at the embedded NSQ, or read from one channel; and this new one never takes over.
fn a_new_gateway_takes_no_heartbeats_from_the_old_one_before_it_has_taken_over() {
    let failing = Stub::answering(|_| b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec());
    let probes = "registry: {ttl: 1h, probe: {path: /alive, timeout: 200ms}}\n";
    for nsq in ["", "channel: ch1, "] {
        let with = |config: &str| config.replace("nsq: {", &format!("nsq: {{{nsq}"));
        let old = Apiserver::start(&with(&format!("nsq: {{}}\ncommon: {{heart_beat_time: 1}}\n{REGISTRY}")));
        old.announce(&[failing.addr()]);
        let mut addrs = vec![failing.addr().to_string()];
        fails_to_take_over(&with(&where_it_listens(&old, 1, probes)), |new| {
            new.wait_for("its listener", |line| line.contains("embedded NSQ listens").then_some(()));
            for port in 2000..2500 {
                if !new.is_running() {
                    break;
                }
                addrs.push(format!("127.0.0.9:{port}"));
                old.heartbeat(addrs.last().unwrap());
                pause(Duration::from_millis(20));
            }
        });
        assert!(addrs.len() > 20, "{addrs:?}");
        addrs.sort();
        within(Duration::from_secs(5), "every heartbeat", || {
            let mut heard = old.live();
            heard.sort();
            (heard == addrs).then_some(())
        });
        assert_eq!(old.process.count("nobody has taken over"), 1);
    }
}

fn without_a_gateway_there_a_takeover_is_a_start() {
    let gateway = take_over(REGISTRY);
    assert_eq!(get(gateway.listen, "/healthz").status, 200);
}

/// Whoever is not asked to take over is refused the port, as ever, and told what would.
fn nobody_else_is_taken_over_from() {
    let old = first(1, "");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, where_it_listens(&old, 1, REGISTRY)).unwrap();
    let mut new = Process::start(&mut Apiserver::command(&file));
    assert_eq!(new.wait().code(), Some(1));
    let said = new.output();
    assert!(said.contains("in use") && said.contains("--takeover"), "{said}");
    // Nor does it help who talks nonsense at the meeting point.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let name = UnixAddr::from_abstract_name(format!("nsq-gateway takeover {taken}")).unwrap();
    let stranger = UnixListener::bind_addr(&name).unwrap();
    let talks = std::thread::spawn(move || stranger.accept().unwrap().0.write_all(b"\x00\x00\x00\x02{}"));
    std::fs::write(&file, format!("gateway: {{listen: '{taken}'}}\n")).unwrap();
    let mut new = Process::start(Apiserver::command(&file).arg("--takeover"));
    assert_eq!(new.wait().code(), Some(1));
    assert!(new.output().contains("nothing can be taken over from the gateway on"), "{}", new.output());
    talks.join().unwrap().unwrap();
    // Nor is who has asked for a takeover told to.
    std::fs::write(&file, format!("gateway: {{listen: '{taken}'}}\n")).unwrap();
    let mut new = Process::start(Apiserver::command(&file).arg("--takeover"));
    assert_eq!(new.wait().code(), Some(1));
    let said = new.output();
    assert!(said.contains("in use") && !said.contains("with --takeover"), "{said}");
}

/// With a user who is stuck. The file is the new one's from when it has taken over.
fn the_old_one_ends_before_its_deadline_and_its_snapshot_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let registry = format!(
        "registry: {{ttl: 1h, snapshot: {}, snapshot_interval: 100ms}}\ntimeouts: {{drain: 2s}}\n",
        dir.path().join("set.json").display()
    );
    let (lives, silent) = (
        Stub::ok("answered"),
        Stub::raw(|stream| {
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        }),
    );
    let mut old = Apiserver::start(&format!("common: {{heart_beat_time: 1}}\n{registry}"));
    old.announce(&[silent.addr()]);
    let mut stuck = connect(old.listen);
    stuck.write_all(&request("GET /", &[], b"")).unwrap();
    eventually("the request to arrive", || (silent.connections() > 0).then_some(()));
    let begun = Instant::now();
    let new = take_over(&where_it_listens(&old, 2, &registry));
    new.heartbeat(&lives.addr().to_string());
    let written = || std::fs::read_to_string(dir.path().join("set.json")).unwrap_or_default();
    let wanted = lives.addr().to_string();
    within(Duration::from_secs(5), "the new one's snapshot", || written().contains(&wanted).then_some(()));
    assert_eq!(old.process.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(old.process.count("were cut off"), 1);
    assert!(written().contains(&wanted));
}
