//! What the control side costs with many dataservers: `cargo bench --bench heartbeats`.
//!
//! One gateway runs an embedded NSQ; a second one reads from it, and is measured: the processor time of its
//! control threads (from `/proc/PID/task/*/stat`) while 10,000 dataservers are heard every 5 seconds.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, SystemTime};

mod gateway;

use gateway::Gateway;

const DATASERVERS: usize = 10_000;
const EVERY: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(20);
const BATCH: usize = 100;

fn main() {
    // `cargo test --benches` only asks whether it builds.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str, config: String| {
        let file = dir.path().join(name);
        std::fs::write(&file, config).unwrap();
        Gateway::start(Command::new(env!("CARGO_BIN_EXE_apiserver")), &file)
    };
    let any = "listen: '127.0.0.1:0', workers: 1";
    let nsq = "embedded_listen: {tcp: '127.0.0.1:0', http: '127.0.0.1:0', lookup: '127.0.0.1:0'}";
    // The one that carries NSQ has a registry too small to be busy with the addresses itself.
    let broker = start("broker", format!("gateway: {{{any}}}\nnsq: {{{nsq}}}\nregistry: {{capacity: 1}}\n"));
    let tcp = broker.said("embedded NSQ listens", "tcp");
    let http = broker.said("embedded NSQ listens", "http").to_owned();
    let reader = start("reader", format!("gateway: {{{any}}}\ncommon: {{nsqd: ['{tcp}']}}\n"));
    let listen = reader.said("gateway listens", "listen").to_owned();

    let heard = || metric(&listen, "gateway_heartbeats_total{result=\"refreshed\"}");
    let publisher = std::thread::spawn(move || publish(&http, EVERY + MEASURED + Duration::from_secs(3)));
    std::thread::sleep(EVERY + Duration::from_secs(1));
    let (cpu, heard_before, begun) = (control_cpu(&reader), heard(), SystemTime::now());
    std::thread::sleep(MEASURED);
    let (cpu, heard_now) = (control_cpu(&reader).saturating_sub(cpu), heard());
    let took = begun.elapsed().unwrap().as_secs_f64();
    let live = metric(&listen, "gateway_dataservers{state=\"live\"}");
    publisher.join().unwrap();

    let per_second = (heard_now - heard_before) / took;
    println!("dataservers live              {live:>10.0}");
    println!("heartbeats a second           {per_second:>10.0}");
    println!("control threads, % of a core  {:>10.2}", cpu.as_secs_f64() / took * 100.0);
    println!("control CPU a heartbeat, µs   {:>10.2}", cpu.as_secs_f64() * 1e6 / (heard_now - heard_before));
    println!(
        "resident memory, MiB          {:>10.1}",
        metric(&listen, "process_resident_memory_bytes") / 1_048_576.0
    );
}

/// Announces every dataserver once in each interval, in small batches spread evenly.
fn publish(http: &str, total: Duration) {
    let begun = SystemTime::now();
    let addrs: Vec<_> = (0..DATASERVERS).map(|n| format!("10.1.{}.{}:80", n >> 8, n & 255)).collect();
    let mut stream = BufReader::new(TcpStream::connect(http).unwrap());
    let pause = EVERY / u32::try_from(DATASERVERS / BATCH).unwrap();
    for (n, batch) in addrs.chunks(BATCH).cycle().enumerate() {
        let due = pause * u32::try_from(n).unwrap();
        if due > total {
            return;
        }
        std::thread::sleep(due.saturating_sub(begun.elapsed().unwrap()));
        let body = batch.join("\n");
        let mut request = String::new();
        write!(
            request,
            "POST /mpub?topic=data_server_addr HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
    }
}

fn metric(listen: &str, series: &str) -> f64 {
    let mut stream = TcpStream::connect(listen).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.expect("no such series").parse().unwrap()
}

/// What the threads of the control runtime have used so far.
fn control_cpu(gateway: &Gateway) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.child.id())).unwrap();
    let ticks: u64 = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap())
        // Control threads are named so; the main thread drives the control runtime as well.
        .filter(|stat| stat.contains("(control)") || stat.contains("(apiserver)"))
        .map(|stat| {
            let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum();
    // The kernel counts in hundredths of a second wherever Linux runs today.
    Duration::from_millis(ticks * 10)
}
