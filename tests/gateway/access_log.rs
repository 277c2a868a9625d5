//! The access log: what a line says, and what becomes of it.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Apiserver, PATIENT, Stub, connect, eventually, exchange, get, post, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        there_is_none_by_default,
        a_line_tells_what_a_request_was_and_what_became_of_it,
        a_line_tells_each_try,
        a_line_tells_why_there_was_no_answer_or_not_all_of_it,
        a_tunnel_has_its_line_when_it_ends,
        text_is_for_people_and_a_template_for_anybody,
        nothing_that_a_user_writes_makes_a_line_or_tells_a_secret,
        of_what_went_well_one_in_many_has_a_line_and_what_failed_always,
        the_file_is_made_anew_when_it_was_renamed,
        a_full_disk_costs_lines_and_not_requests,
        lines_that_wait_are_written_before_the_end,
    ]
}

/// A gateway with an access log in a file.
struct Logged {
    gateway: Apiserver,
    file: PathBuf,
    _dir: TempDir,
}

impl Logged {
    #[track_caller]
    fn start(access: &str, config: &str, dataservers: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("access.log");
        let log = format!("log: {{access: {{to: '{}', {access}}}}}\n", file.display());
        let gateway = Apiserver::start(&format!("{PATIENT}{log}{config}"));
        gateway.announce(dataservers);
        Self { gateway, file, _dir: dir }
    }

    fn to(&self) -> SocketAddr {
        self.gateway.listen
    }

    /// Its lines, once there are so many.
    #[track_caller]
    fn lines(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} lines"), || {
            let lines: Vec<_> = fs::read_to_string(&self.file).ok()?.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// The last of so many lines of JSON.
    #[track_caller]
    fn last(&self, count: usize) -> Value {
        let lines = self.lines(count);
        assert_eq!(lines.len(), count, "{lines:#?}");
        let last = &lines[count - 1];
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {last}"))
    }
}

const JSON: &str = "format: json";

fn there_is_none_by_default() {
    let stub = Stub::ok("");
    let gateway = Apiserver::start(PATIENT);
    gateway.announce(&[stub.addr()]);
    let before = gateway.process.output();
    assert_eq!(get(gateway.listen, "/").status, 200);
    assert_eq!(gateway.process.output(), before);
    assert!(!gateway.metrics().contains("log=\"access\""));
}

fn a_line_tells_what_a_request_was_and_what_became_of_it() {
    let stub = Stub::ok("hello");
    let logged = Logged::start(JSON, "", &[stub.addr()]);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = [("x-request-id", "abc-1"), ("traceparent", trace)];
    let reply = exchange(logged.to(), &request("POST /a/b?c=d", &fields, b"123"));
    assert_eq!(reply.status, 200);
    let mut line = logged.last(1);
    let began = humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap();
    assert!(began.elapsed().unwrap().as_secs() < 30);
    let [took, first] = ["duration_ms", "first_byte_ms"].map(|name| line[name].as_f64().unwrap());
    assert!(0.0 < first && first <= took && took < 30_000.0, "{line}");
    for name in ["time", "duration_ms", "first_byte_ms"] {
        line.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(
        line,
        json!({
            "client": "127.0.0.1", "method": "POST", "host": "test", "path": "/a/b", "protocol": "HTTP/1.1",
            "status": 200, "tries": [{"dataserver": stub.addr().to_string(), "result": "200"}], "error": null,
            "detail": null, "bytes_in": 3, "bytes_out": 5, "request_id": "abc-1",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        })
    );
    // Where there is a log, a request has an id: it is in the line, and the user and the dataserver have it.
    let reply = get(logged.to(), "/");
    let line = logged.last(2);
    assert_eq!(line["request_id"].as_str(), reply.header("x-request-id"));
    assert_eq!(line["request_id"].as_str(), Some(stub.requests()[1].header("x-request-id")[0]));
}

fn a_line_tells_each_try() {
    let (dead, stub) = (Stub::refusing(), Stub::ok(""));
    let logged = Logged::start(JSON, "", &[dead, stub.addr()]);
    let tried = json!([
        {"dataserver": dead.to_string(), "result": "connect"},
        {"dataserver": stub.addr().to_string(), "result": "200"},
    ]);
    let mut count = 0;
    eventually("a request that meets the dead one first", || {
        // Once it was refused it is asked only if nobody else is there, until it is heard again.
        logged.gateway.heartbeat(&format!(r#"{{"addr":"{dead}","id":"{count}","seq":0}}"#));
        assert_eq!(get(logged.to(), "/").status, 200);
        count += 1;
        (logged.last(count)["tries"] == tried).then_some(())
    });
}

fn a_line_tells_why_there_was_no_answer_or_not_all_of_it() {
    // It reads, and does with each path what that says.
    let stub = Stub::raw(|mut stream| {
        let mut head = [0; 4096];
        let read = stream.read(&mut head).unwrap_or(0);
        let path = String::from_utf8_lossy(&head[..read]).into_owned();
        if path.starts_with("GET /cut") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n1234");
        } else if path.starts_with("GET /long") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n1234");
            let _ = stream.read(&mut head);
        } else if path.contains(" /hang ") {
            let _ = stream.read(&mut head);
        }
    });
    let logged = Logged::start(JSON, "timeouts: {response_head: 20s}\n", &[stub.addr()]);
    let of = |line: &Value| {
        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        (
            line["status"].as_u64().unwrap(),
            text("error"),
            line["tries"][0]["result"].as_str().map(str::to_owned),
        )
    };
    let failed =
        |status, error: &str, tried: Option<&str>| (status, error.to_owned(), tried.map(str::to_owned));

    assert!(!get(logged.to(), "/cut").complete);
    let line = logged.last(1);
    assert_eq!(of(&line), failed(200, "http_response_incomplete", Some("200")));
    assert_eq!(line["bytes_out"], 4);

    let mut user = connect(logged.to());
    user.write_all(&request("GET /long", &[], b"")).unwrap();
    user.read_exact(&mut [0; 60]).unwrap();
    drop(user);
    assert_eq!(of(&logged.last(2)), failed(200, "user_left", Some("200")));

    let mut user = connect(logged.to());
    user.write_all(&request("GET /hang", &[], b"")).unwrap();
    eventually("the request to arrive", || (stub.connections() >= 3).then_some(()));
    drop(user);
    let line = logged.last(3);
    assert_eq!(of(&line), failed(499, "user_left", None));
    assert_eq!(line["tries"][0]["dataserver"], stub.addr().to_string(), "who was waited for");
    assert!(line["first_byte_ms"].is_null() && line["detail"].is_string(), "{line}");

    assert_eq!(post(logged.to(), "/close", b"x").status, 502);
    let line = logged.last(4);
    assert_eq!(of(&line), failed(502, "connection_terminated", Some("closed")));
    assert!(line["detail"].as_str().unwrap().contains("closed the connection before it answered"), "{line}");

    assert_eq!(exchange(logged.to(), b"GET / HTTP/1.1\r\n\r\n").status, 400);
    let line = logged.last(5);
    assert_eq!(of(&line), failed(400, "http_request_error", None));
    assert_eq!((&line["detail"], &line["host"]), (&json!("there is no Host"), &Value::Null));

    // The gateway's word is not the dataserver's, who has said nothing.
    let malformed = b"POST /hang HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n";
    assert_eq!(exchange(logged.to(), malformed).status, 400);
    assert_eq!(of(&logged.last(6)), failed(400, "http_request_error", None));
}

fn a_tunnel_has_its_line_when_it_ends() {
    let stub = Stub::raw(|mut stream| {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head);
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n");
        let mut word = [0; 4];
        let _ = stream.read_exact(&mut word);
        let _ = stream.write_all(b"pong!");
    });
    let logged = Logged::start(JSON, "", &[stub.addr()]);
    let mut user = connect(logged.to());
    user.write_all(&request("GET /", &[("connection", "upgrade"), ("upgrade", "x")], b"")).unwrap();
    let mut reader = std::io::BufReader::new(user.try_clone().unwrap());
    let (first, _) = crate::support::read_head(&mut reader).unwrap();
    assert!(first.contains("101"), "{first}");
    assert_eq!(fs::read_to_string(&logged.file).unwrap(), "", "it has not ended");
    user.write_all(b"ping").unwrap();
    let mut answer = String::new();
    user.shutdown(std::net::Shutdown::Write).unwrap();
    reader.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "pong!");
    let line = logged.last(1);
    assert_eq!((&line["status"], &line["bytes_in"], &line["bytes_out"]), (&json!(101), &json!(4), &json!(5)));
    assert!(
        line["error"].is_null() && line["duration_ms"].as_f64() > line["first_byte_ms"].as_f64(),
        "{line}"
    );
}

fn text_is_for_people_and_a_template_for_anybody() {
    let stub = Stub::ok("hello");
    let logged = Logged::start("format: text", "", &[stub.addr()]);
    exchange(logged.to(), &request("GET /a?b", &[("x-request-id", "abc-1")], b""));
    let line = logged.lines(1).remove(0);
    let (_, line) = line.split_once("Z ").unwrap();
    let begins =
        format!("127.0.0.1 \"GET test/a HTTP/1.1\" 200 tries={}=200 error=- duration_ms=", stub.addr());
    assert!(line.starts_with(&begins), "{line}");
    assert!(line.ends_with(" bytes_in=0 bytes_out=5 request_id=abc-1 trace_id=- detail=\"-\""), "{line}");

    let template = "query: true, format: '{{{client}}} {path} {status}/{bytes_out} {error}'";
    let logged = Logged::start(template, "", &[stub.addr()]);
    assert_eq!(get(logged.to(), "/a?b=c").status, 200);
    assert_eq!(logged.lines(1), ["{127.0.0.1} /a?b=c 200/5 -"]);
}

fn nothing_that_a_user_writes_makes_a_line_or_tells_a_secret() {
    let stub = Stub::ok("");
    let hostile = [
        &b"GET /a\"b\\c?token=secret HTTP/1.1\r\nhost: test\r\nauthorization: secret\r\ncookie: secret\r\n\r\n"[..],
        b"GET http://user:secret@test/ HTTP/1.1\r\nhost: test\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: te\xffst\"\r\nx-request-id: a\"b\r\n\r\n",
    ];
    let long = format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "x".repeat(3000));
    for format in ["format: json", "format: text", "format: '\"{host}\" {path} {method} {request_id}'"] {
        // Of one worker the lines are in order.
        let logged = Logged::start(format, "gateway: {workers: 1}\n", &[stub.addr()]);
        for bytes in hostile.into_iter().chain([long.as_bytes()]) {
            exchange(logged.to(), bytes);
        }
        let lines = logged.lines(4);
        assert_eq!(lines.len(), 4);
        for line in &lines {
            assert!(!line.contains("secret") && line.is_ascii() && line.len() < 2000, "{line}");
            if format == JSON {
                serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error} in {line}"));
            }
        }
        assert!(lines[0].contains("/a\\\"b\\\\c"), "{}", lines[0]);
        assert!(lines[3].contains(&format!("/{}...", "x".repeat(1023))), "{}", lines[3]);
    }
}

fn of_what_went_well_one_in_many_has_a_line_and_what_failed_always() {
    let stub = Stub::answering(|exchange| {
        let status = if exchange.first.contains("/bad") { "500 No" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    });
    let logged = Logged::start("one_in: 1000, format: '{status}'", "", &[stub.addr()]);
    let mut stream = connect(logged.to());
    let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
    for n in 0..200 {
        let path = if n % 10 == 0 { "GET /bad" } else { "GET /" };
        stream.write_all(&request(path, &[], b"")).unwrap();
        read_reply(&mut reader, false).unwrap();
    }
    let lines = logged.lines(20);
    let (failed, well): (Vec<_>, Vec<_>) = lines.iter().partition(|line| *line == "500");
    assert!(failed.len() == 20 && well.len() < 10, "{lines:?}");
}

fn the_file_is_made_anew_when_it_was_renamed() {
    let stub = Stub::ok("");
    let logged = Logged::start("format: '{path}'", "", &[stub.addr()]);
    get(logged.to(), "/before");
    logged.lines(1);
    let old = logged.file.with_extension("1");
    fs::rename(&logged.file, &old).unwrap();
    let mut sent = 0;
    eventually("the file", || {
        get(logged.to(), "/after");
        sent += 1;
        logged.file.exists().then_some(())
    });
    eventually("all lines", || {
        let lines = |path| fs::read_to_string(path).unwrap().lines().count();
        (lines(&old) + lines(&logged.file) == 1 + sent).then_some(())
    });
    assert!(fs::read_to_string(&old).unwrap().starts_with("/before\n"));
}

fn a_full_disk_costs_lines_and_not_requests() {
    let stub = Stub::ok("");
    let gateway = Apiserver::start(&format!("{PATIENT}log: {{access: {{to: /dev/full}}}}\n"));
    gateway.announce(&[stub.addr()]);
    for _ in 0..50 {
        assert_eq!(get(gateway.listen, "/").status, 200);
    }
    let lost = "gateway_log_lines_lost_total{log=\"access\"}";
    eventually("50 lost lines", || ((gateway.metric(lost) - 50.0).abs() < 0.5).then_some(()));
    gateway
        .process
        .wait_for("a word on it", |line| line.contains("the access log cannot be written").then_some(()));
    assert_eq!(gateway.process.count("the access log cannot be written"), 1);
}

fn lines_that_wait_are_written_before_the_end() {
    let stub = Stub::ok("");
    let mut logged = Logged::start("format: '{status}'", "gateway: {workers: 2}\n", &[stub.addr()]);
    for _ in 0..100 {
        get(logged.to(), "/");
    }
    logged.gateway.process.signal("TERM");
    assert_eq!(logged.gateway.process.wait().code(), Some(0));
    assert_eq!(fs::read_to_string(&logged.file).unwrap(), "200\n".repeat(100));
}
