//! Dataservers that die, stop, hang, flap and are restarted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::findings::{Drilled, at_most, finding, grouped, happens_within, none};
use crate::fleet::{Fleet, TTL};
use crate::load::Load;
use crate::support::{Process, pause, read_head, request, within};
use crate::watch::Watch;
use crate::witness::{Beats, Manner, Witness, repeated};

/// No request is sent to a dead dataserver later than this.
pub const SENT_AT_MOST: Duration = Duration::from_secs(1);

/// Room for the sweep, and for how often a drill looks.
const SLACK: Duration = Duration::from_millis(700);

pub fn killed_under_load() -> Drilled {
    let mut fleet = Fleet::start(3, "");
    let victim = fleet.addrs()[1].clone();
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 800);
    load.go_on_for(3_000);
    let killed = fleet.kill(1);
    load.go_on_for(7_500);
    let (answers, seen) = (load.stop(), watch.stop());
    Ok(vec![
        answers.none_failed(),
        at_most("last request to it after", seen.last_sent_after(&victim, killed), SENT_AT_MOST),
        happens_within("out of rotation after", seen.out_after(&victim, killed), SENT_AT_MOST),
    ])
}

/// Downloads stand still after 1 MiB each while one of the three dataservers is killed; then they go on.
pub fn killed_in_the_middle_of_answers() -> Drilled {
    const SIZE: usize = 30_000_000;
    let mut fleet = Fleet::start(3, "");
    let mut downloads: Vec<_> = (0..24).map(|_| Download::begin(fleet.gateway.listen, SIZE)).collect();
    let on_victim = under_way(&fleet, 24)[1];
    let load = Load::gets(fleet.gateway.listen, 100);
    fleet.kill(1);
    pause(Duration::from_millis(500));
    let ended: Vec<_> = downloads.drain(..).map(Download::end).collect();
    let whole = ended.iter().filter(|got| **got == Ok(SIZE)).count();
    let broken = ended.iter().filter(|got| got.is_err()).count();
    let truncated = ended.len() - whole - broken;
    Ok(vec![
        finding(format!("{on_victim} of 24 were under way on it"), on_victim > 0),
        finding(format!("{broken} broke off, each visibly"), broken == on_victim),
        none("truncated successes", truncated),
        finding(format!("{whole} whole"), whole == 24 - on_victim),
        load.stop().none_failed(),
    ])
}

/// How many requests are under way on each dataserver, once these are so many in all.
fn under_way(fleet: &Fleet, in_all: u64) -> Vec<usize> {
    let on = |addr: &String| {
        let entry = crate::support::get(fleet.gateway.listen, &format!("/dataservers/{addr}"));
        entry.json()["in_flight"].as_u64().unwrap()
    };
    within(Duration::from_secs(10), "all to be under way", || {
        let each: Vec<u64> = fleet.addrs().iter().map(on).collect();
        (each.iter().sum::<u64>() == in_all)
            .then(|| each.iter().map(|n| usize::try_from(*n).unwrap()).collect())
    })
}

/// An answer of which the first 1 MiB was read.
struct Download {
    reader: BufReader<TcpStream>,
    length: usize,
}

impl Download {
    fn begin(from: SocketAddr, size: usize) -> Self {
        let mut stream = TcpStream::connect(from).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&request(&format!("GET /bytes/{size}"), &[("connection", "close")], b"")).unwrap();
        let mut reader = BufReader::new(stream);
        let (status, fields) = read_head(&mut reader).expect("no answer");
        assert!(status.contains(" 200 "), "{status}");
        let length = fields.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
        reader.read_exact(&mut vec![0; 1 << 20]).unwrap();
        Self { reader, length }
    }

    /// Reads the rest: how long the answer was if it looks whole, or how it broke off.
    fn end(mut self) -> Result<usize, &'static str> {
        let mut got = 1 << 20;
        loop {
            match self.reader.fill_buf().map(<[u8]>::len) {
                Ok(0) if got < self.length => return Err("closed"),
                Ok(0) => return Ok(got),
                Ok(read) => {
                    got += read;
                    self.reader.consume(read);
                }
                Err(_) => return Err("reset"),
            }
        }
    }
}

/// SIGSTOP: connections are taken, and nothing is ever said.
pub fn stopped() -> Drilled {
    const LIMIT: Duration = Duration::from_secs(1);
    let fleet = Fleet::start(3, "timeouts: {response_head: 1s}\n");
    let victim = fleet.addrs()[0].clone();
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(400);
    fleet.dataservers[0].process.signal("STOP");
    let stopped = Instant::now();
    pause(TTL * 2);
    let (answers, seen) = (load.stop(), watch.stop());
    let failed = answers.failed();
    let last = failed.iter().map(|answer| answer.at + answer.took).max();
    let last = last.map(|last| last.saturating_duration_since(stopped)).unwrap_or_default();
    fleet.dataservers[0].process.signal("CONT");
    Ok(vec![
        at_most("the longest of all answers took", answers.longest(), LIMIT + Duration::from_millis(500)),
        // All who wait for it at once, and the few after whom it is ejected.
        finding(format!("{} of {} failed", failed.len(), grouped(answers.len())), failed.len() <= 16 + 5),
        at_most("the last failure after", last, LIMIT * 2 + Duration::from_millis(500)),
        happens_within("out of rotation after", seen.out_after(&victim, stopped), TTL + SLACK),
    ])
}

/// It goes on announcing itself, and takes connections: only its answers are missing.
pub fn accepts_and_hangs() -> Drilled {
    const LIMIT: Duration = Duration::from_millis(500);
    let fleet = Fleet::start(2, "timeouts: {response_head: 500ms}\n");
    let witness = Witness::start(Manner::Answer);
    let beats = Beats::of(vec![witness.addr.to_string()], fleet.gateway.nsq.unwrap()[1]);
    let addr = witness.addr.to_string();
    within(TTL, "it to join", || (fleet.state(&addr)? == "live").then_some(()));
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(400);
    witness.becomes(Manner::Hang);
    let hangs = Instant::now();
    let before = witness.requests();
    // Not longer than it stays out the first time.
    pause(Duration::from_secs(6));
    let state = fleet.state(&addr).unwrap_or_default();
    let (answers, seen, asked) = (load.stop(), watch.stop(), witness.requests() - before);
    drop(beats);
    Ok(vec![
        at_most("the longest of all answers took", answers.longest(), LIMIT + Duration::from_millis(500)),
        finding(format!("{asked} requests reached it"), asked <= 16 + 5),
        happens_within("out of rotation after", seen.out_after(&addr, hangs), LIMIT * 2 + SLACK),
        finding(format!("its state is then {state:?}"), state == "ejected"),
    ])
}

/// It closes what was idle for as long as the gateway keeps it, and the users ask just then.
pub fn idle_connections_close_as_they_are_reused() -> Drilled {
    const IDLE: Duration = Duration::from_millis(400);
    let fleet = Fleet::start(0, "timeouts: {pool_idle: 400ms}\ngateway: {workers: 1}\n");
    let witness = Witness::start(Manner::CloseIdle(IDLE));
    let _beats = Beats::of(vec![witness.addr.to_string()], fleet.gateway.nsq.unwrap()[1]);
    fleet.gateway.wait_for_live(&[&witness.addr.to_string()]);
    // 16 users, each of whom comes again after what a connection may be idle, or a little before or after.
    let mut answers = Vec::new();
    for per_second in [39, 40, 41] {
        let load = Load::gets_and_posts(fleet.gateway.listen, per_second);
        pause(Duration::from_secs(3));
        answers.push(load.stop());
    }
    let gets: Vec<_> = answers.iter().map(|answers| answers.to_method("GET")).collect();
    let posts: usize = answers.iter().map(|answers| answers.to_method("POST").len()).sum();
    let failed: usize = gets.iter().map(|gets| gets.failed().len()).sum();
    let all: usize = gets.iter().map(crate::load::Answers::len).sum();
    Ok(vec![
        finding(format!("{failed}/{} GETs failed", grouped(all)), failed == 0),
        none(&format!("of {} POSTs arrived twice", grouped(posts)), repeated(&[&witness], "POST")),
    ])
}

/// Off for twice the TTL, on for twice the TTL, twice.
pub fn flapping() -> Drilled {
    let mut fleet = Fleet::start(3, "");
    let steady = [fleet.addrs()[0].clone(), fleet.addrs()[1].clone()];
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 200);
    let begun = Instant::now();
    let (mut left, mut returned) = (Vec::new(), Vec::new());
    let addr = fleet.addrs()[2].clone();
    for _ in 0..2 {
        let off = fleet.kill(2);
        pause(TTL * 2);
        left.push(off);
        fleet.start_again(2);
        returned.push(Instant::now());
        pause(TTL * 2);
    }
    let (answers, seen) = (load.stop(), watch.stop());
    let sent = left.iter().zip(&returned).map(|(off, on)| seen.last_sent_between(&addr, *off, *on)).max();
    let back = returned.iter().map(|on| seen.in_after(&addr, *on).unwrap_or(TTL * 10)).max();
    Ok(vec![
        answers.none_failed(),
        at_most("last request to it while it was off after", sent.unwrap(), SENT_AT_MOST),
        happens_within("back in rotation after", back, TTL),
        none("of the others missing at any time", seen.missing(&steady, begun, Instant::now()).len()),
    ])
}

pub fn rolling_restart() -> Drilled {
    let mut fleet = Fleet::start(3, "");
    let load = Load::gets_and_posts(fleet.gateway.listen, 300);
    load.go_on_for(600);
    let mut slowest = Duration::ZERO;
    for n in 0..3 {
        let begun = Instant::now();
        fleet.restart(n);
        slowest = slowest.max(begun.elapsed());
        load.go_on_for(600);
    }
    Ok(vec![load.stop().none_failed(), at_most("a restart took at most", slowest, Duration::from_secs(20))])
}

/// Services that an announcer speaks for: what reached them is known.
pub fn rolling_restart_of_announced_services() -> Drilled {
    let fleet = Fleet::start(0, "");
    let witnesses: Vec<_> = (0..3).map(|_| Witness::start(Manner::Answer)).collect();
    let announce = |witness: &Witness| announcer(&fleet, witness.addr);
    let mut announcers: Vec<_> = witnesses.iter().map(announce).collect();
    let addrs: Vec<_> = witnesses.iter().map(|witness| witness.addr.to_string()).collect();
    fleet.gateway.wait_for_live(&addrs.iter().map(String::as_str).collect::<Vec<_>>());
    let load = Load::gets_and_posts(fleet.gateway.listen, 300);
    load.go_on_for(300);
    let mut goodbyes = Vec::new();
    for (n, witness) in witnesses.iter().enumerate() {
        announcers[n].signal("TERM");
        announcers[n].wait();
        // It has said goodbye: now its service may go, and what comes to it is reset.
        witness.becomes(Manner::Reset);
        let gone = Instant::now();
        let addr = witness.addr.to_string();
        goodbyes.push(within(TTL * 2, "it to leave", || {
            (fleet.state(&addr).as_deref() != Some("live")).then(|| gone.elapsed())
        }));
        load.go_on_for(150);
        witness.becomes(Manner::Answer);
        announcers[n] = announce(witness);
        within(TTL * 4, "it to be back", || (fleet.state(&addr)? == "live").then_some(()));
    }
    let answers = load.stop();
    let all: Vec<_> = witnesses.iter().collect();
    Ok(vec![
        answers.none_failed(),
        none("POSTs arrived twice", repeated(&all, "POST")),
        happens_within("out of rotation after its announcer", goodbyes.into_iter().max(), SLACK),
    ])
}

/// `dataserver announce` for a service of the drill.
fn announcer(fleet: &Fleet, addr: SocketAddr) -> Process {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dataserver"));
    command.arg("announce").arg("--addr").arg(addr.to_string()).arg("--config").arg(fleet.config_file());
    Process::start(command.env_remove("RUST_LOG"))
}

/// A hundred users each of answers whose first byte is slow, that never begin, that drip, and that stall.
pub fn slow_answers() -> Drilled {
    const LIMIT: Duration = Duration::from_secs(2);
    let stub = slow_stub();
    let fleet = Fleet::start(0, "timeouts: {response_head: 2s, idle_body: 2s}\n");
    let _beats = Beats::of(vec![stub.addr().to_string()], fleet.gateway.nsq.unwrap()[1]);
    fleet.gateway.wait_for_live(&[&stub.addr().to_string()]);
    let memory = || fleet.gateway.metric("process_resident_memory_bytes");
    let (before, to) = (memory(), fleet.gateway.listen);
    let (ended, ends) = mpsc::channel();
    for n in 0..400 {
        let (ended, path) = (ended.clone(), ["/slow", "/never", "/drip", "/stall"][n % 4]);
        std::thread::spawn(move || {
            let begun = Instant::now();
            let reply = crate::support::get(to, path);
            ended.send((path, reply.status, reply.complete, begun.elapsed())).unwrap();
        });
        // Not more at once than wait to be accepted by a dataserver.
        pause(Duration::from_millis(2));
    }
    pause(Duration::from_secs(1));
    let grown = ((memory() - before) / f64::from(1 << 20)).max(0.0);
    drop(ended);
    let ends: Vec<_> = ends.iter().collect();
    for end in ends.iter().filter(|end| end.1 != 200 && end.0 != "/never") {
        eprintln!("{end:?}");
    }
    let as_it_should = |path: &str, status: u16, complete: bool| {
        let all = ends.iter().filter(|end| end.0 == path);
        let right = all.filter(|end| (end.1, end.2) == (status, complete)).count();
        finding(
            format!("{path}: {right} of 100 {status}{}", if complete { "" } else { ", aborted" }),
            right == 100,
        )
    };
    let longest = ends.iter().filter(|end| end.0 != "/drip").map(|end| end.3).max().unwrap_or_default();
    Ok(vec![
        as_it_should("/slow", 200, true),
        as_it_should("/never", 504, true),
        as_it_should("/drip", 200, true),
        as_it_should("/stall", 200, false),
        at_most("the longest but for the drip", longest, LIMIT * 2 + SLACK),
        finding(format!("{grown:.1} MiB for 400 of them (≤ 32)"), grown <= 32.0),
    ])
}

/// What comes slowly moves at least twice in each limit.
fn slow_stub() -> crate::support::Stub {
    crate::support::Stub::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let Some((first, _)) = read_head(&mut reader) else { return };
        let mut say = |what: &str| stream.write_all(what.as_bytes()).is_ok();
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n";
        match first.split(' ').nth(1).unwrap_or_default() {
            "/slow" => {
                pause(Duration::from_secs(1));
                say(&format!("{head}12345678"));
            }
            "/drip" => {
                say(head);
                (0..8).all(|_| {
                    pause(Duration::from_millis(500));
                    say("x")
                });
            }
            "/stall" => {
                say(&format!("{head}1234"));
            }
            _ => {}
        }
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    })
}
