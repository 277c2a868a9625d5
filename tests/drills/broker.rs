//! NSQ that dies, stops, is cut off, loses a part, or hands out the past.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::findings::{Drilled, at_most, finding, for_the_record, happens_within, holds, needs, none};
use crate::firewall::Firewall;
use crate::fleet::{Fleet, HEARTBEAT, NSQD_SILENCE, TTL, gateway_config, real_nsq};
use crate::load::Load;
use crate::support::{
    Apiserver, Broker, Cluster, DataserverProcess, Process, Stub, get, pause, tools, within,
};
use crate::watch::Watch;
use crate::witness::{Manner, Witness, publish, unread};

/// An nsqd that is back is read again within this.
const CONNECTED_AGAIN: Duration = Duration::from_secs(5);

/// Without NSQ, a dead dataserver is out of rotation within this.
const PROBED: Duration = Duration::from_secs(2);

/// For how often a drill looks.
const SLACK: Duration = Duration::from_millis(500);

pub fn killed_for_6_ttls() -> Drilled {
    let cluster = real_nsq(1)?;
    nsqd_goes_and_comes(
        cluster,
        |cluster| cluster.nsqds[0].kill(),
        |cluster| cluster.nsqds[0].run(),
        TTL * 6,
        NSQD_SILENCE,
    )
}

pub fn stopped_for_6_ttls() -> Drilled {
    let cluster = real_nsq(1)?;
    nsqd_goes_and_comes(
        cluster,
        |cluster| cluster.nsqds[0].signal("STOP"),
        |cluster| cluster.nsqds[0].signal("CONT"),
        TTL * 6,
        HEARTBEAT * 2,
    )
}

/// Its packets are lost both ways, and no connection is told.
pub fn cut_off() -> Drilled {
    let firewall = Firewall::new()?;
    let cluster = real_nsq(1)?;
    nsqd_goes_and_comes(
        cluster,
        |cluster| {
            firewall.drop_all(cluster.nsqds[0].tcp);
            firewall.drop_all(cluster.nsqds[0].http);
        },
        |_| firewall.open(),
        TTL * 3,
        HEARTBEAT * 2,
    )
}

/// The only nsqd is gone for a while and comes back; nobody must notice.
fn nsqd_goes_and_comes(
    mut cluster: Cluster,
    go: impl FnOnce(&mut Cluster),
    come: impl FnOnce(&mut Cluster),
    length: Duration,
    noticed_within: Duration,
) -> Drilled {
    let fleet = Fleet::on(&cluster, 3, "");
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(200);
    let gone = Instant::now();
    go(&mut cluster);
    pause(length);
    let back = Instant::now();
    come(&mut cluster);
    let is_thawed = || get(fleet.gateway.listen, "/dataservers").json()["frozen"] == false;
    within(CONNECTED_AGAIN + TTL, "the thaw", || is_thawed().then_some(()));
    // In the first TTL after it, nobody is evicted who had no time yet to be heard.
    pause(TTL + SLACK);
    let (answers, seen) = (load.stop(), watch.stop());
    Ok(vec![
        answers.none_failed(),
        none("evicted", fleet.evicted()),
        none("missing at any time", seen.missing(&fleet.addrs(), gone, Instant::now()).len()),
        happens_within("noticed after", seen.nsqds_after(gone, 0), noticed_within + SLACK),
        happens_within("frozen after", seen.frozen_after(gone), TTL + SLACK),
        happens_within("connected again after", seen.nsqds_after(back, 1), CONNECTED_AGAIN),
        happens_within("thawed after", seen.thawed_after(back), CONNECTED_AGAIN + TTL),
    ])
}

/// One dies together with NSQ, one while the set is frozen, and one when nobody asks for anything.
pub fn a_dataserver_dies_while_nsq_is_down() -> Drilled {
    let mut cluster = real_nsq(1)?;
    let mut fleet = Fleet::on(&cluster, 4, "");
    let addrs = fleet.addrs();
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(200);
    cluster.nsqds[0].kill();
    let first = fleet.kill(0);
    pause(TTL * 2);
    let second = fleet.kill(1);
    pause(PROBED);
    let answers = load.stop();
    let third = fleet.kill(2);
    pause(PROBED);
    let seen = watch.stop();
    Ok(vec![
        answers.none_failed(),
        happens_within("with NSQ: out of rotation after", seen.out_after(&addrs[0], first), PROBED),
        happens_within("later: after", seen.out_after(&addrs[1], second), PROBED),
        happens_within("without load: after", seen.out_after(&addrs[2], third), PROBED),
        none("of the living missing", seen.missing(&addrs[3..], first, Instant::now()).len()),
    ])
}

/// An nsqlookupd that is right, then gone, hung, talking junk, and without an end; the nsqd is known from it alone.
pub fn nsqlookupd_gone_hung_junk_endless() -> Drilled {
    let cluster = Cluster::start(Broker::Embedded, 1);
    let lookup = Lookup::of(cluster.nsqds[0].tcp, cluster.nsqds[0].http);
    let nsqlookupd = format!("{{addr: 127.0.0.1, http_port: {}}}", lookup.stub.addr().port());
    let config = gateway_config(&cluster, "");
    let (_, timings) = config.split_once("}\n").unwrap();
    let timings = &timings[timings.find("registry").unwrap()..];
    let gateway = Apiserver::start(&format!("common: {{nsqlookupd: {nsqlookupd}}}\n{timings}"));
    let fleet = Fleet::of(gateway, 3, cluster.config(false, ""));
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 100);
    let begun = Instant::now();
    for fault in [Fault::Gone, Fault::Hung, Fault::Junk, Fault::Endless] {
        *lookup.fault.lock().unwrap() = fault;
        pause(TTL + Duration::from_secs(1));
    }
    let (answers, seen) = (load.stop(), watch.stop());
    let longest = *lookup.longest.lock().unwrap();
    let taken = lookup.most_taken.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
    Ok(vec![
        answers.none_failed(),
        none("evicted", fleet.evicted()),
        holds("the link was kept", seen.nsqds_other_than(begun, 1).is_none()),
        at_most("a poll took at most", longest, Duration::from_secs(2) + SLACK),
        // What the kernel had room for was sent, but never read.
        finding(format!("and {taken:.1} MiB (≤ 1, and 6 in the kernel's buffers)"), taken <= 7.0),
    ])
}

/// What is wrong with an nsqlookupd.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Nothing,
    Gone,
    Hung,
    Junk,
    Endless,
}

/// An nsqlookupd that knows one nsqd, and what it costs to ask it.
struct Lookup {
    stub: Stub,
    fault: Arc<Mutex<Fault>>,
    longest: Arc<Mutex<Duration>>,
    most_taken: Arc<AtomicUsize>,
}

impl Lookup {
    fn of(tcp: SocketAddr, http: SocketAddr) -> Self {
        let fault = Arc::new(Mutex::new(Fault::Nothing));
        let (longest, most_taken) = (Arc::new(Mutex::default()), Arc::new(AtomicUsize::new(0)));
        let (now, took, taken) = (fault.clone(), longest.clone(), most_taken.clone());
        let right = serde_json::json!({ "channels": [], "producers": [{
            "remote_address": tcp.to_string(), "hostname": "localhost", "broadcast_address": "127.0.0.1",
            "tcp_port": tcp.port(), "http_port": http.port(), "version": "1.3.0",
        }]});
        let right = right.to_string();
        let stub = Stub::raw(move |mut stream| {
            use std::io::{Read, Write};
            let (begun, fault) = (Instant::now(), *now.lock().unwrap());
            if fault == Fault::Gone
                || crate::support::read_head(&mut std::io::BufReader::new(&stream)).is_none()
            {
                return;
            }
            let whole = |body: &str| {
                format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            };
            let _ = match fault {
                Fault::Nothing => stream.write_all(whole(&right).as_bytes()),
                Fault::Junk => stream.write_all(whole("\0}{junk").as_bytes()),
                Fault::Endless => {
                    let _ = socket2::SockRef::from(&stream).set_send_buffer_size(64 * 1024);
                    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n{\"producers\":[";
                    let mut sent = stream.write(head.as_bytes()).unwrap_or(0);
                    while let Ok(more) = stream.write(&[b' '; 16 * 1024]) {
                        sent += more;
                        taken.fetch_max(sent, Ordering::Relaxed);
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
            // Until the other side has had enough.
            let _ = stream.read(&mut [0; 1]);
            let mut longest = took.lock().unwrap();
            *longest = begun.elapsed().max(*longest);
        });
        Self { stub, fault, longest, most_taken }
    }
}

pub fn one_of_three_dies() -> Drilled {
    one_nsqd_of_three_is_dead_for(Duration::from_secs(18))
}

pub fn one_of_three_is_dead_for_3_minutes() -> Drilled {
    one_nsqd_of_three_is_dead_for(Duration::from_secs(180))
}

/// Three dataservers try another nsqd when one fails; three others do as the Go dataservers, which lose that heartbeat.
fn one_nsqd_of_three_is_dead_for(length: Duration) -> Drilled {
    let heartbeat = needs(&tools::GO)?.join("heartbeat");
    let mut cluster = real_nsq(3)?;
    let fleet = Fleet::on(&cluster, 3, "");
    let nsqds: Vec<_> = cluster.nsqds.iter().map(|nsqd| nsqd.tcp.to_string()).collect();
    let witnesses: Vec<_> = (0..3).map(|_| Witness::start(Manner::Answer)).collect();
    let producers: Vec<_> = witnesses
        .iter()
        .map(|witness| {
            let mut command = Command::new(&heartbeat);
            command.args(["seed-producer", "-nsqd", &nsqds.join(","), "-topic", "data_server_addr"]);
            Process::start(command.args(["-interval", "1s", "-addr", &witness.addr.to_string()]))
        })
        .collect();
    let careful = fleet.addrs();
    let careless: Vec<_> = witnesses.iter().map(|witness| witness.addr.to_string()).collect();
    let all: Vec<_> = careful.iter().chain(&careless).map(String::as_str).collect();
    fleet.gateway.wait_for_live(&all);
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 100);
    cluster.nsqds[0].kill();
    let killed = Instant::now();
    pause(length);
    let (answers, seen) = (load.stop(), watch.stop());
    drop(producers);
    Ok(vec![
        answers.none_failed(),
        none("evicted", fleet.evicted()),
        none("of 3 dataservers missing", seen.missing(&careful, killed, Instant::now()).len()),
        none("of 3 that lose heartbeats missing", seen.missing(&careless, killed, Instant::now()).len()),
    ])
}

/// A durable channel has kept 100,000 heartbeats of dataservers that have died since. Their addresses still take
/// connections here, so that whoever is sent to them is noticed.
pub fn a_backlog_of_100_000() -> Drilled {
    const DEAD: usize = 50;
    const BATCH: usize = 5_000;
    let cluster = real_nsq(1)?;
    let nsqd = &cluster.nsqds[0];
    nsqd.post("/topic/create?topic=data_server_addr", b"");
    nsqd.post("/channel/create?topic=data_server_addr&channel=past", b"");
    let dead: Vec<_> = (0..DEAD).map(|_| Witness::start(Manner::Answer)).collect();
    let heartbeats: Vec<_> = (0..BATCH).map(|n| dead[n % DEAD].addr.to_string()).collect();
    for _ in 0..100_000 / BATCH {
        publish(nsqd.http, "mpub", heartbeats.join("\n").as_bytes()).unwrap();
    }
    pause(TTL);
    let living: Vec<_> = (0..3).map(|_| DataserverProcess::start(&cluster.config(false, ""))).collect();
    let mut wanted: Vec<_> = living.iter().map(|dataserver| dataserver.addr.clone()).collect();
    wanted.sort();
    pause(HEARTBEAT);

    let started = Instant::now();
    let channel = "nsq: {channel: past, lookup_interval: 300ms, silence_timeout: 2s}\n";
    let gateway = Apiserver::start(&gateway_config(&cluster, channel));
    let load = Load::gets(gateway.listen, 100);
    let right = within(Duration::from_secs(40), "the right set", || {
        (gateway.live() == wanted).then(|| started.elapsed())
    });
    let right_at = Instant::now();
    let drained = within(Duration::from_secs(40), "the backlog to be read", || {
        (unread(nsqd.http) < 100).then(|| started.elapsed())
    });
    pause(TTL);
    let dialled = dead.iter().filter(|witness| witness.connections() > 0).count();
    let requests: usize = dead.iter().map(Witness::requests).sum();
    let stayed = gateway.live() == wanted;
    Ok(vec![
        none("requests to dead addresses", requests),
        none("dead addresses dialled", dialled),
        at_most("live set right after", right, Duration::from_secs(5)),
        holds("and stayed right", stayed),
        for_the_record("all of it read in", drained),
        load.stop().sent(&[right_at..Instant::now()]).none_failed(),
    ])
}
