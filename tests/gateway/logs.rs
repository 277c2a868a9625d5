//! What becomes of the log when nobody reads it, and of the gateway meanwhile.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Apiserver, PATIENT, Stub, eventually, exchange, get, pause, post, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        faults_33_whoever_reads_the_log_stops_and_requests_go_on,
        a_gateway_whose_log_nobody_reads_ends_in_time,
        a_log_on_a_full_disk_and_no_log_at_all_cost_no_request,
    ]
}

/// A gateway whose log is read when the test says so.
struct Unread {
    child: Child,
    log: BufReader<PipeReader>,
    listen: SocketAddr,
    _dir: TempDir,
}

impl Unread {
    /// Its log is read until it serves the stub, and then no more.
    fn start(config: &str, stub: &Stub) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let any = "127.0.0.1:0";
        let nsq = format!("nsq: {{embedded_listen: {{tcp: '{any}', http: '{any}', lookup: '{any}'}}}}\n");
        std::fs::write(&file, format!("gateway: {{listen: '{any}', workers: 2}}\n{nsq}{PATIENT}{config}"))
            .unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Apiserver::command(&file);
        command.env("RUST_LOG", "debug").stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        let child = command.spawn().unwrap();
        drop(command); // and with it our end of what it writes to
        let mut log = BufReader::new(reader);
        let nsq = read_until(&mut log, "embedded NSQ listens");
        let gateway = read_until(&mut log, "gateway listens");
        let addr = |value: &Value| value.as_str().unwrap().parse::<SocketAddr>().unwrap();
        let listen = addr(&gateway["listen"]);
        let unread = Self { child, log, listen, _dir: dir };
        post(addr(&nsq["http"]), "/pub?topic=data_server_addr", stub.addr().to_string().as_bytes());
        eventually("the stub to be live", || (get(listen, "/").status == 200).then_some(()));
        unread
    }

    fn lost(&self) -> f64 {
        let metrics = get(self.listen, "/metrics").text();
        let series = "gateway_log_lines_lost_total{log=\"events\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse().unwrap()
    }

    /// Requests of several users at once: as many that are answered as of those that are refused, with a line each.
    fn load(&self, count: usize) {
        let (good, bad) = (request("GET /", &[], b""), b"GET / HTTP/1.1\r\n\r\n");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..count / 4 {
                        assert_eq!(exchange(self.listen, &good).status, 200);
                        assert_eq!(exchange(self.listen, bad).status, 400);
                    }
                });
            }
        });
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line of the log with this message.
#[track_caller]
fn read_until(log: &mut impl BufRead, message: &str) -> Value {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log has ended before {message:?}");
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        if event["message"].as_str().is_some_and(|text| text.starts_with(message)) {
            return event;
        }
    }
}

fn faults_33_whoever_reads_the_log_stops_and_requests_go_on() {
    let stub = Stub::ok("");
    let mut gateway = Unread::start("log: {buffer_bytes: 4096}\n", &stub);
    eventually("lost lines", || {
        gateway.load(100);
        (gateway.lost() > 0.0).then_some(())
    });
    gateway.load(100);
    let lost = eventually("nothing to happen", || {
        let lost = gateway.lost();
        pause(Duration::from_millis(100));
        ((gateway.lost() - lost).abs() < 0.5).then_some(lost)
    });
    // Reading goes on: all that had room is there, then how many had none, then lines as before.
    let mut told = 0.0;
    while told < lost {
        let event = read_until(&mut gateway.log, "log lines were lost");
        assert_eq!(event["level"], "WARN");
        told += event["lines"].as_f64().unwrap();
    }
    assert!((told - lost).abs() < 0.5, "{told} told of {lost}");
    gateway.load(4);
    read_until(&mut gateway.log, "request failed");
    assert!((gateway.lost() - lost).abs() < 0.5);
}

fn a_gateway_whose_log_nobody_reads_ends_in_time() {
    let stub = Stub::ok("");
    let mut gateway = Unread::start("log: {buffer_bytes: 4096, flush_timeout: 300ms}\n", &stub);
    eventually("lost lines", || {
        gateway.load(100);
        (gateway.lost() > 0.0).then_some(())
    });
    let begun = Instant::now();
    assert!(Command::new("kill").arg(gateway.child.id().to_string()).status().unwrap().success());
    let status = eventually("its end", || gateway.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

fn a_log_on_a_full_disk_and_no_log_at_all_cost_no_request() {
    let nsqd = Apiserver::start("");
    let [tcp, http, _] = nsqd.nsq.unwrap();
    let stub = Stub::ok("");
    for is_full in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        // It cannot say where it listens.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        std::fs::write(
            &file,
            format!("gateway: {{listen: '{listen}'}}\ncommon: {{nsqd: ['{tcp}']}}\n{PATIENT}"),
        )
        .unwrap();
        let mut command = Apiserver::command(&file);
        if is_full {
            command.stderr(File::options().write(true).open("/dev/full").unwrap());
        } else {
            // `Command` cannot leave it closed.
            let apiserver = command;
            command = Command::new("sh");
            command
                .args(["-c", "exec \"$@\" 2>&-", "sh"])
                .arg(apiserver.get_program())
                .args(apiserver.get_args());
        }
        let mut child = command.env("RUST_LOG", "debug").stdin(Stdio::null()).spawn().unwrap();
        eventually("the gateway to serve", || {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            std::net::TcpStream::connect(listen).ok()
        });
        let heartbeat = stub.addr().to_string();
        eventually("the stub to be live", || {
            post(http, "/pub?topic=data_server_addr", heartbeat.as_bytes());
            pause(Duration::from_millis(20));
            (get(listen, "/").status == 200).then_some(())
        });
        for _ in 0..50 {
            assert_eq!(exchange(listen, b"GET / HTTP/1.1\r\n\r\n").status, 400);
            assert_eq!(get(listen, "/").status, 200);
        }
        let lost = "gateway_log_lines_lost_total{log=\"events\"} ";
        let metrics = get(listen, "/metrics").text();
        let lost: u64 = metrics.lines().find_map(|line| line.strip_prefix(lost)).unwrap().parse().unwrap();
        // Who starts without a stderr gets /dev/null for one.
        assert_eq!(lost > 50, is_full, "{lost} lost");
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert_eq!(eventually("its end", || child.try_wait().unwrap()).code(), Some(0));
    }
}
