//! The service manager: the sockets that it passes on, and what it is told.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::Trial;

use crate::support::{Apiserver, PATIENT, Process, Stub, connect, event, get, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        a_listener_that_was_passed_on_is_listened_on,
        who_comes_between_two_gateways_waits_and_is_served,
        without_dataservers_who_waits_is_told_so,
        a_key_that_changes_while_who_comes_waits_is_taken,
        listeners_have_the_names_of_their_units,
        what_was_passed_to_another_process_is_not_taken,
        what_is_no_listener_is_refused_and_named,
        the_service_manager_is_told_of_the_start_the_state_and_the_end,
        the_service_manager_may_have_an_abstract_name_or_be_gone,
        the_watchdog_is_fed_if_it_wants_to_be,
    ]
}

/// It is not waited for longer than twice that for dataservers.
const QUICK: &str = "common: {heart_beat_time: 1}\n";

/// Starts a gateway as a service manager would that holds these listeners, of these names.
#[track_caller]
fn activated(config: &str, listeners: &[&TcpListener], names: Option<&str>) -> Apiserver {
    Apiserver::start_by(&format!("{config}{QUICK}"), |command| {
        Process::start_with_listeners(&mut passing_on(&command, names, "$$", listeners.len()), listeners)
    })
}

/// A shell that moves its file descriptors 0 and 1 to where they are looked for, and becomes `command`.
fn passing_on(command: &Command, names: Option<&str>, pid: &str, count: usize) -> Command {
    let script = format!("exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID={pid} exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(command.get_program()).args(command.get_args());
    shell.env_remove("RUST_LOG").env("LISTEN_FDS", count.to_string());
    if let Some(names) = names {
        shell.env("LISTEN_FDNAMES", names);
    }
    shell
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn a_listener_that_was_passed_on_is_listened_on() {
    let (held, stub) = (listener(), Stub::ok("answered"));
    // One socket for several workers; what the config says is not bound.
    let config = format!("{PATIENT}gateway: {{workers: 3, listen: '127.0.0.1:1'}}\n");
    let gateway = activated(&config, &[&held], None);
    assert_eq!(gateway.listen, held.local_addr().unwrap());
    gateway.announce(&[stub.addr()]);
    for _ in 0..20 {
        assert_eq!(get(gateway.listen, "/").text(), "answered");
    }
}

/// The service manager keeps the listener, so that its queue stays: a gateway that stops must not empty it, and nobody
/// in it is refused or reset, or served before there is a dataserver.
fn who_comes_between_two_gateways_waits_and_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("set.json");
    let config = format!("registry: {{ttl: 1h, snapshot: {}}}\n", snapshot.display());
    let (held, stub) = (listener(), Stub::ok("answered"));
    let mut gateway = activated(&config, &[&held], None);
    gateway.announce(&[stub.addr()]);
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(0));
    let streams: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(held.local_addr().unwrap());
            stream.write_all(&request("GET /", &[("connection", "close")], b"")).unwrap();
            stream
        })
        .collect();
    let gateway = activated(&config, &[&held], None);
    for stream in streams {
        let reply = read_reply(&mut std::io::BufReader::new(stream), false).expect("no answer");
        assert_eq!(reply.text(), "answered");
    }
    assert_eq!(gateway.process.count("who waits is let in"), 1);
}

/// It is not waited for somebody for ever.
fn without_dataservers_who_waits_is_told_so() {
    let held = listener();
    let gateway = activated("", &[&held], None);
    assert_eq!(get(gateway.listen, "/").status, 503);
}

/// The watch begins after the wait, and must not take what it finds then for what was read before.
fn a_key_that_changes_while_who_comes_waits_is_taken() {
    let (dir, held) = (tempfile::tempdir().unwrap(), listener());
    let key = dir.path().join("key");
    std::fs::write(&key, "correct horse battery staple\n").unwrap();
    let config = format!(
        "{QUICK}reload: {{check_interval: 20ms}}\nnsq: {{heartbeat_key_file: '{}'}}\n",
        key.display()
    );
    let gateway = Apiserver::start_by(&config, |command| {
        let process = Process::start_with_listeners(&mut passing_on(&command, None, "$$", 1), &[&held]);
        process.wait_for("the wait", |line| line.contains("heartbeats are read from").then_some(()));
        std::fs::write(&key, "another horse, another staple\n").unwrap();
        assert_eq!(process.count("who waits is let in"), 0);
        process
    });
    gateway.process.wait_for("the change", |line| {
        line.contains("the config has changed: nsq.heartbeat_key_file").then_some(())
    });
}

fn listeners_have_the_names_of_their_units() {
    let (users, operators) = (listener(), listener());
    // The admin paths move to the socket that is for them, though the config does not say so.
    let gateway = activated(PATIENT, &[&operators, &users], Some("admin:listen"));
    assert_eq!(gateway.listen, users.local_addr().unwrap());
    assert_eq!(gateway.admin, operators.local_addr().ok());
    assert_eq!(get(gateway.admin.unwrap(), "/healthz").status, 200);
    assert_eq!(get(gateway.listen, "/healthz").status, 503, "it is forwarded");
    drop(gateway);
    // Without a name of its own a socket has that of its unit. Several are for the same users.
    for names in [Some("nsq-gateway.socket:nsq-gateway.socket"), Some("unknown:listen"), None] {
        let gateway = Bare::start(&[&users, &operators], names, "$$");
        let listens = gateway.process.wait_for("listener", |line| event(line, "gateway listens"));
        let addresses = [&users, &operators].map(|socket| socket.local_addr().unwrap());
        assert_eq!(listens["listen"], addresses.map(|addr| addr.to_string()).join(","));
        for addr in addresses {
            assert_eq!(get(addr, "/healthz").status, 200);
        }
    }
}

/// A gateway of which nothing is expected.
struct Bare {
    process: Process,
    _dir: tempfile::TempDir,
}

impl Bare {
    fn start(listeners: &[&TcpListener], names: Option<&str>, pid: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, ON_FREE_PORTS).unwrap();
        let command = &mut passing_on(&Apiserver::command(&file), names, pid, listeners.len());
        Self { process: Process::start_with_listeners(command, listeners), _dir: dir }
    }
}

const ON_FREE_PORTS: &str = "common: {heart_beat_time: 1}
gateway: {listen: '127.0.0.1:0'}
nsq: {embedded_listen: {tcp: '127.0.0.1:0', http: '127.0.0.1:0', lookup: '127.0.0.1:0'}}
";

fn what_was_passed_to_another_process_is_not_taken() {
    let held = listener();
    let gateway = Bare::start(&[&held], None, "1");
    let listens = gateway.process.wait_for("listener", |line| event(line, "gateway listens"));
    assert_ne!(listens["listen"], held.local_addr().unwrap().to_string());
}

fn what_is_no_listener_is_refused_and_named() {
    let held = listener();
    let connected = TcpStream::connect(held.local_addr().unwrap()).unwrap();
    let connected = TcpListener::from(OwnedFd::from(connected));
    let datagrams = UnixDatagram::unbound().unwrap();
    let datagrams = TcpListener::from(OwnedFd::from(datagrams));
    for (sockets, names, why) in [
        (
            [&held, &connected],
            Some("listen:admin"),
            "LISTEN_FDS: what is passed on as \"admin\": a socket does not listen",
        ),
        (
            [&held, &datagrams],
            Some("listen:admin"),
            "LISTEN_FDS: the socket \"admin\": fd 4 is not a valid tcp socket",
        ),
        ([&held, &datagrams], None, "LISTEN_FDS: socket 2 of 2: fd 4 is not a valid tcp socket"),
        ([&held, &held], Some("listen:amdin"), "LISTEN_FDNAMES: \"amdin\" is neither listen nor admin"),
        ([&held, &held], Some("listen"), "LISTEN_FDNAMES has 1 names for 2 sockets"),
    ] {
        let mut gateway = Bare::start(&sockets, names, "$$");
        assert_eq!(gateway.process.wait().code(), Some(1), "{why}");
        assert_eq!(gateway.process.output(), format!("error: {why}"));
    }
}

/// Who is told what a gateway does.
struct Manager {
    socket: UnixDatagram,
    _dir: tempfile::TempDir,
    name: String,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("notify").to_str().unwrap().to_owned();
        Self { socket: UnixDatagram::bind(&name).unwrap(), _dir: dir, name }
    }

    fn gateway(&self, config: &str, environment: &[(&str, &str)]) -> Apiserver {
        Apiserver::start_with(config, |command| {
            command.env("NOTIFY_SOCKET", &self.name).envs(environment.iter().copied());
        })
    }

    /// Waits for a message in which a fact stands, and returns all of its facts.
    #[track_caller]
    fn told_of(&self, fact: &str) -> BTreeMap<String, String> {
        let deadline = SystemTime::now() + Duration::from_secs(20);
        let mut told = String::new();
        loop {
            let left = deadline.duration_since(SystemTime::now());
            let left = left.unwrap_or_else(|_| panic!("not told of {fact}, but of {told}"));
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 4096];
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let facts = message.lines().map(|line| line.split_once('=').unwrap());
            let facts: BTreeMap<_, _> =
                facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            if message.lines().any(|line| line == fact) {
                return facts;
            }
            told += &message;
        }
    }
}

fn the_service_manager_is_told_of_the_start_the_state_and_the_end() {
    let (manager, stub) = (Manager::new(), Stub::ok(""));
    // Until a heartbeat was due, nobody can say that there is none.
    let config =
        format!("{PATIENT}timeouts: {{lame_duck: 1s, drain: 5s}}\ncommon: {{heart_beat_time: 3600}}\n");
    let mut gateway = manager.gateway(&config, &[]);
    manager.told_of("READY=1");
    manager.told_of("STATUS=not ready: starting: no heartbeat yet");
    gateway.announce(&[stub.addr()]);
    manager.told_of("STATUS=1 dataservers get requests");
    gateway.process.signal("TERM");
    // With what the end takes after the last connection.
    let facts = manager.told_of("STOPPING=1");
    assert_eq!((&*facts["EXTEND_TIMEOUT_USEC"], &*facts["STATUS"]), ("16000000", "stopping"));
    assert_eq!(gateway.process.wait().code(), Some(0));
}

fn the_service_manager_may_have_an_abstract_name_or_be_gone() {
    let name = format!("nsq-gateway-test-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let manager = Manager { socket, name: format!("@{name}"), ..Manager::new() };
    let _gateway = manager.gateway(PATIENT, &[]);
    manager.told_of("READY=1");
    let gone = Manager { name: "/no/such/socket".to_owned(), ..Manager::new() };
    let gateway = gone.gateway(PATIENT, &[]);
    assert_eq!(gateway.process.count("the service manager cannot be told anything: No such file"), 1);
    assert_eq!(get(gateway.listen, "/healthz").status, 200);
}

fn the_watchdog_is_fed_if_it_wants_to_be() {
    let manager = Manager::new();
    let mut gateway =
        manager.gateway(&format!("{PATIENT}gateway: {{workers: 3}}\n"), &[("WATCHDOG_USEC", "400000")]);
    let begun = Instant::now();
    for _ in 0..4 {
        manager.told_of("WATCHDOG=1");
    }
    assert!(begun.elapsed() >= Duration::from_millis(500), "it is fed too often");
    // Also until the end.
    let mut stuck = connect(gateway.listen);
    stuck.write_all(b"GET /").unwrap();
    gateway.process.signal("TERM");
    manager.told_of("STOPPING=1");
    manager.told_of("WATCHDOG=1");
    manager.told_of("WATCHDOG=1");
    drop(stuck);
    assert_eq!(gateway.process.wait().code(), Some(0));
    // One that waits for another process gets nothing.
    let _gateway = manager.gateway(PATIENT, &[("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")]);
    manager.told_of("READY=1");
    manager.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = manager.socket.recv(&mut buffer) {
        assert!(!buffer[..length].starts_with(b"WATCHDOG"));
    }
}
