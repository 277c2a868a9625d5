//! Either of the two is told to stop while the new one gets ready. Somebody must be left for users.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use libtest_mimic::Trial;

use super::{REGISTRY, Users, first, take_over, where_it_listens};
use crate::support::{
    Apiserver, Process, Stub, connect, event, eventually, get, pause, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        the_old_one_waits_for_the_new_one_and_no_request_fails,
        the_old_one_closes_as_ever_if_the_new_one_ends,
        nobody_comes_to_the_new_one_before_it_has_taken_over,
        the_old_one_does_not_wait_for_ever_and_who_comes_does,
        the_new_one_takes_nothing_over_also_if_it_has_just_got_ready,
        a_new_one_that_comes_while_the_old_one_leaves_starts,
    ]
}

/// A running gateway with one dataserver that answers, and one that probes get no answer from: a new gateway that asks
/// for `/alive` gets ready when it has waited for that one.
struct Stage {
    old: Apiserver,
    _stubs: [Stub; 2],
}

impl Stage {
    fn new() -> Self {
        let silent = Stub::answering(|exchange| {
            if exchange.first.contains("/alive") {
                pause(Duration::from_secs(60));
            }
            b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nanswered".to_vec()
        });
        let stubs = [Stub::ok("answered"), silent];
        let old = first(2, "");
        old.announce(&[stubs[0].addr(), stubs[1].addr()]);
        Self { old, _stubs: stubs }
    }

    /// A new gateway, which has the sockets and is not ready for this long.
    fn new_one(&self, not_ready_for: &str) -> Process {
        let probe = format!("probe: {{path: /alive, timeout: {not_ready_for}}}");
        let config = where_it_listens(&self.old, 2, &format!("registry: {{ttl: 1h, {probe}}}\n"));
        let config = config.replace("heart_beat_time: 1", "heart_beat_time: 20");
        std::fs::write(self.new_config(), config).unwrap();
        let new = Process::start(Apiserver::command(&self.new_config()).arg("--takeover"));
        self.old.process.wait_for("the new one", |line| event(line, "a gateway wants to take over"));
        new.wait_for("the sockets", |line| event(line, "embedded NSQ listens"));
        new
    }

    fn new_config(&self) -> std::path::PathBuf {
        self.old.config.with_file_name("new.yaml")
    }
}

fn the_old_one_waits_for_the_new_one_and_no_request_fails() {
    let mut stage = Stage::new();
    let users = Users::of(stage.old.listen);
    users.go_on();
    let new = stage.new_one("2s");
    stage.old.process.signal("TERM");
    new.wait_for("the takeover", |line| event(line, "taken over"));
    assert_eq!(stage.old.process.wait().code(), Some(0));
    users.go_on();
    users.stop();
}

fn the_old_one_closes_as_ever_if_the_new_one_ends() {
    let mut stage = Stage::new();
    let mut new = stage.new_one("15s");
    stage.old.process.signal("TERM");
    stage
        .old
        .process
        .wait_for("its wait", |line| event(line, "waiting for the gateway that is about to take over"));
    assert_eq!(get(stage.old.listen, "/").text(), "answered", "meanwhile it serves");
    new.kill();
    assert_eq!(stage.old.process.wait().code(), Some(0));
    assert!(stage.old.process.output().contains("nobody has taken over"));
    TcpListener::bind(stage.old.listen).expect("the port is free");
}

/// Its workers have the sockets already. Whom it had let in would end with it.
fn nobody_comes_to_the_new_one_before_it_has_taken_over() {
    let stage = Stage::new();
    let mut new = stage.new_one("15s");
    new.wait_for("its wait", |line| event(line, "heartbeats are read from this nsqd"));
    let users: Vec<_> = (0..50).map(|_| connect(stage.old.listen)).collect();
    let ask = |mut user: &TcpStream| {
        user.write_all(&request("GET /", &[], b"")).unwrap();
        read_reply(&mut BufReader::new(user), false).expect("no answer").text()
    };
    assert!(users.iter().all(|user| ask(user) == "answered"));
    new.kill();
    assert!(users.iter().all(|user| ask(user) == "answered"));
}

/// It stands still. If it goes on after all, whoever has come by then is served.
fn the_old_one_does_not_wait_for_ever_and_who_comes_does() {
    let mut stage = Stage::new();
    let mut new = stage.new_one("1s");
    new.signal("STOP");
    stage.old.process.signal("TERM");
    assert_eq!(stage.old.process.wait().code(), Some(0));
    let listen = stage.old.listen;
    let waits = std::thread::spawn(move || get(listen, "/"));
    pause(Duration::from_millis(300)); // in which it would be refused
    new.signal("CONT");
    assert_eq!(waits.join().expect("not let in").text(), "answered");
    eventually("users", || (get(listen, "/").text() == "answered").then_some(()));
    assert!(new.is_running());
}

/// It stands still until its time to get ready is over: then it learns of both at once.
fn the_new_one_takes_nothing_over_also_if_it_has_just_got_ready() {
    let mut stage = Stage::new();
    for _ in 0..4 {
        let mut new = stage.new_one("1s");
        new.signal("STOP");
        pause(Duration::from_millis(1200));
        new.signal("TERM");
        new.signal("CONT");
        assert_eq!(new.wait().code(), Some(0));
        assert_eq!(new.count("taken over"), 0, "{}", new.output());
        assert_eq!(get(stage.old.listen, "/").text(), "answered");
    }
    assert!(stage.old.process.is_running());
}

/// Nobody can be met any more, and the port is not free yet.
fn a_new_one_that_comes_while_the_old_one_leaves_starts() {
    let mut old = first(2, "");
    for delay in (0..6).map(|n| n * Duration::from_millis(20)) {
        old.process.signal("TERM");
        pause(delay);
        let new = take_over(&where_it_listens(&old, 2, REGISTRY));
        assert_eq!(old.process.wait().code(), Some(0));
        assert_eq!(get(new.listen, "/healthz").status, 200);
        old = new;
    }
}
