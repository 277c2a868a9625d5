//! The page: what a browser gets at `/dataservers`, and the stream that it listens to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{
    Apiserver, EventStream, PATIENT, Reply, Stub, connect, eventually, exchange, get, pause, post, request,
    tools, trial_with, trials,
};

mod chromium;

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        a_browser_gets_the_page_and_everybody_else_what_they_always_got,
        the_stream_tells_all_at_first_and_then_what_has_changed,
        the_stream_tells_of_joins_doubts_and_evictions,
        the_stream_tells_of_a_freeze,
        requests_and_the_time_they_take_are_told,
        clients_outside_admin_allow_see_neither_the_page_nor_the_stream,
        with_admin_listen_the_page_moves_there,
        more_viewers_than_allowed_get_503_until_one_has_left,
        a_stream_outlives_the_limits_on_what_does_not_move,
        told_to_stop_the_gateway_ends_the_streams_at_once,
        a_viewer_that_reads_nothing_does_not_hold_up_the_stop,
    ];
    let curl = &*tools::CURL;
    trials.push(trial_with("page::the_stream_comes_over_http2_as_well", curl, the_stream_comes_over_http2));
    trials.extend(chromium::trials());
    trials
}

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";

fn ask(to: SocketAddr, accept: &str) -> Reply {
    exchange(to, &request("GET /dataservers", &[("accept", accept), ("connection", "close")], b""))
}

fn a_browser_gets_the_page_and_everybody_else_what_they_always_got() {
    let gateway = Apiserver::start(PATIENT);
    let plain = get(gateway.listen, "/dataservers");
    for reply in
        [&plain, &ask(gateway.listen, "*/*"), &ask(gateway.listen, "application/json, text/plain, */*")]
    {
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("vary"), Some("accept"));
        assert_eq!(reply.text(), r#"{"frozen":false,"dataservers":[]}"#);
    }
    let page = ask(gateway.listen, BROWSER);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!doctype html>"));
    for (name, value) in [
        ("vary", "accept"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    let policy = page.header("content-security-policy").unwrap();
    for directive in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "trusted-types 'none'",
    ] {
        assert!(policy.split("; ").any(|there| there == directive), "{directive} in {policy}");
    }
    assert!(!policy.contains("unsafe-"), "{policy}");
}

/// What the stream has told of the dataservers so far: address, then number, state, and the rest of what changes.
#[derive(Default)]
struct Seen(BTreeMap<String, Value>);

impl Seen {
    fn take(&mut self, data: &Value) {
        let rows = |key: &str| data[key].as_array().cloned().unwrap_or_default();
        for row in rows("rows").into_iter().chain(rows("new")) {
            self.0.insert(row[0].as_str().unwrap().to_owned(), row[2].clone());
        }
        for changed in rows("changed") {
            let row = self.0.values_mut().find(|row| row[0] == changed[0]).map(|row| *row = changed.clone());
            assert!(row.is_some(), "{changed} of nobody who was told");
        }
        for gone in rows("gone") {
            self.0.retain(|_, row| row[0] != gone);
        }
    }
}

fn the_stream_tells_all_at_first_and_then_what_has_changed() {
    let gateway = Apiserver::start(PATIENT);
    let (one, two) = (Stub::ok("one"), Stub::ok("two"));
    gateway.announce(&[one.addr()]);
    let mut stream = EventStream::open(gateway.listen, "/dataservers");
    let field = |name: &str| stream.headers.iter().find(|(field, _)| field == name).unwrap().1.clone();
    assert_eq!(field("content-type"), "text/event-stream");
    assert_eq!(field("vary"), "accept");
    let mut seen = Seen::default();
    let (event, state) = stream.next().unwrap();
    seen.take(&state);
    assert_eq!(event, "state");
    assert_eq!(seen.0.keys().collect::<Vec<_>>(), [&one.addr().to_string()]);
    assert_eq!((&state["set"]["ttl"], &state["set"]["hold"][0]), (&3_600_000.into(), &"flowing".into()));
    assert_eq!(state["nsqds"][0]["connected"], true);
    gateway.heartbeat(&two.addr().to_string());
    stream.wait_for("the other", |event, delta| {
        assert_eq!(event, "delta");
        seen.take(delta);
        (seen.0.len() == 2).then_some(())
    });
    // When nothing has changed, of nobody is told.
    stream.wait_for("a quiet second", |_, delta| {
        let told = ["set", "nsqds", "new", "changed", "gone", "events"];
        told.iter().all(|key| delta.get(key).is_none()).then_some(())
    });
    // Another who comes later is told all.
    let (event, state) = EventStream::open(gateway.listen, "/dataservers").next().unwrap();
    assert_eq!((event.as_str(), state["rows"].as_array().unwrap().len()), ("state", 2));
}

fn the_stream_tells_of_joins_doubts_and_evictions() {
    let gateway = Apiserver::start("registry: {ttl: 3s, sweep_interval: 100ms}\n");
    let mut stream = EventStream::open(gateway.listen, "/dataservers");
    let dead = Stub::refusing();
    gateway.heartbeat(&dead.to_string());
    let mut told = Vec::new();
    let mut seen = Seen::default();
    let mut note = |data: &Value, seen: &mut Seen| {
        seen.take(data);
        for event in data["events"].as_array().into_iter().flatten() {
            told.push((event[2].as_str().map(str::to_owned), event[3].as_str().unwrap().to_owned()));
        }
        told.clone()
    };
    stream.wait_for("the join", |_, data| {
        note(data, &mut seen).iter().any(|(_, kind)| kind == "joined").then_some(())
    });
    assert_eq!(get(gateway.listen, "/").status, 502);
    stream.wait_for("the doubt", |_, data| {
        note(data, &mut seen);
        seen.0.get(&dead.to_string()).filter(|row| row[1] == "suspect").map(|_| ())
    });
    let told = stream.wait_for("the end", |_, data| {
        let told = note(data, &mut seen);
        (seen.0.is_empty() && told.iter().any(|(_, kind)| kind == "evicted")).then_some(told)
    });
    assert!(told.iter().all(|(addr, _)| addr.as_deref() == Some(&dead.to_string())), "{told:?}");
    let kinds: Vec<_> = told.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["joined", "suspect", "probe_failed", "evicted"]);
}

fn the_stream_tells_of_a_freeze() {
    let gateway = Apiserver::start("registry: {ttl: 1500ms, sweep_interval: 100ms}\n");
    let mut stream = EventStream::open(gateway.listen, "/dataservers");
    // They fall silent at once.
    let (one, two) = (Stub::ok(""), Stub::ok(""));
    for stub in [&one, &two] {
        gateway.heartbeat(&stub.addr().to_string());
    }
    let frozen = stream.wait_for("the freeze", |_, data| {
        data["events"].as_array().into_iter().flatten().find(|event| event[3] == "frozen").cloned()
    });
    assert_eq!(frozen[2], Value::Null);
    assert!(frozen[4].as_str().unwrap().starts_with("most dataservers are silent"), "{frozen}");
    let (_, state) = EventStream::open(gateway.listen, "/dataservers").next().unwrap();
    assert_eq!(state["set"]["hold"][0], "frozen");
}

fn requests_and_the_time_they_take_are_told() {
    let gateway = Apiserver::start(PATIENT);
    let slow = Stub::answering(|exchange| {
        pause(Duration::from_millis(40));
        let status = if exchange.first.contains("/bad") { "500 No" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    });
    gateway.announce(&[slow.addr()]);
    let mut stream = EventStream::open(gateway.listen, "/dataservers");
    let (_, state) = stream.next().unwrap();
    assert_eq!(state["rows"][0][2][3], Value::Null, "there is nothing yet that a rate could be of");
    stream.wait_for("a first rate", |_, data| data.get("changed").map(|_| ()));
    for path in ["/good", "/bad", "/good", "/bad"] {
        get(gateway.listen, path);
    }
    let mut sample = None;
    let row = stream.wait_for("the rates", |_, data| {
        sample = sample.take().or_else(|| Some(data["sample"].clone()).filter(|sample| sample[1] != 0.0));
        let row = data["changed"].as_array()?.first()?.clone();
        (sample.is_some() && row[3].as_f64()? > 0.0 && row[4].as_f64()? > 0.0).then_some(row)
    });
    let sample = sample.unwrap();
    for latency in [&row[6], &sample[2], &sample[3]] {
        let latency = latency.as_f64().unwrap();
        assert!((25.0..5000.0).contains(&latency), "{latency} ms in {row} and {sample}");
    }
}

fn clients_outside_admin_allow_see_neither_the_page_nor_the_stream() {
    let gateway = Apiserver::start("gateway: {admin_allow: [10.0.0.0/8]}\n");
    for accept in [BROWSER, "text/event-stream"] {
        let reply = ask(gateway.listen, accept);
        assert_eq!((reply.status, reply.json()["title"].as_str()), (403, Some("Forbidden")), "{accept}");
    }
}

fn with_admin_listen_the_page_moves_there() {
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{admin_listen: '127.0.0.1:0'}}\n"));
    let stub = Stub::ok("forwarded");
    gateway.announce(&[stub.addr()]);
    for accept in [BROWSER, "text/event-stream"] {
        assert_eq!(ask(gateway.listen, accept).text(), "forwarded");
    }
    let admin = gateway.admin.unwrap();
    assert!(ask(admin, BROWSER).text().starts_with("<!doctype html>"));
    let (event, state) = EventStream::open(admin, "/dataservers").next().unwrap();
    assert_eq!((event.as_str(), &state["rows"][0][0]), ("state", &stub.addr().to_string().into()));
}

fn more_viewers_than_allowed_get_503_until_one_has_left() {
    let gateway = Apiserver::start("limits: {viewers: 2}\n");
    let open = || EventStream::open(gateway.listen, "/dataservers");
    let viewers = [open(), open()];
    let reply = ask(gateway.listen, "text/event-stream");
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("10")));
    assert_eq!(reply.json()["title"], "Too many viewers");
    assert_eq!(ask(gateway.listen, BROWSER).status, 200);
    drop(viewers);
    eventually("a place", || {
        let mut stream = connect(gateway.listen);
        let asked = request("GET /dataservers", &[("accept", "text/event-stream")], b"");
        stream.write_all(&asked).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        (&first == b"HTTP/1.1 200").then_some(())
    });
}

fn a_stream_outlives_the_limits_on_what_does_not_move() {
    let gateway =
        Apiserver::start("timeouts: {idle_body: 300ms, request_head: 300ms, response_head: 300ms}\n");
    let mut stream = EventStream::open(gateway.listen, "/dataservers");
    for _ in 0..4 {
        assert!(stream.next().is_some());
    }
}

fn told_to_stop_the_gateway_ends_the_streams_at_once() {
    let mut gateway = Apiserver::start("timeouts: {drain: 20s}\n");
    let mut stream = EventStream::open(gateway.listen, "/dataservers");
    assert_eq!(stream.next().unwrap().0, "state");
    let told = Instant::now();
    gateway.process.signal("TERM");
    let mut last = Value::Null;
    while let Some((_, data)) = stream.next() {
        last = data;
    }
    assert_eq!(last["set"]["not_ready"], "draining", "{last}");
    assert!(gateway.process.wait().success());
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

/// Announces many, no more at a time than the embedded NSQ has room for.
fn announce_many(gateway: &Apiserver, addrs: &[String]) {
    let [_, http, _] = gateway.nsq.unwrap();
    let mut announced = 0.0;
    for some in addrs.chunks(2_500) {
        assert_eq!(post(http, "/mpub?topic=data_server_addr", some.join("\n").as_bytes()).status, 200);
        announced += 2_500.0;
        let live = || gateway.metric("gateway_dataservers{state=\"live\"}");
        eventually("all", || (live() > announced - 1.0).then_some(()));
    }
}

fn a_viewer_that_reads_nothing_does_not_hold_up_the_stop() {
    let mut gateway = Apiserver::start(
        "registry: {ttl: 1h, trusted_joins: 100000, join_rate: 100000}\ntimeouts: {drain: 25s, drain_idle: 300ms}\n",
    );
    // So many with names so long that what there is to tell fits into no socket's buffers.
    let label = "a".repeat(60);
    let addrs: Vec<_> = (0..15_000).map(|n| format!("d{n}.{label}.{label}.{label}.example:80")).collect();
    announce_many(&gateway, &addrs);
    let mut stream = connect(gateway.listen);
    stream.write_all(&request("GET /dataservers", &[("accept", "text/event-stream")], b"")).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    pause(Duration::from_secs(1));
    let told = Instant::now();
    gateway.process.signal("TERM");
    assert!(gateway.process.wait().success());
    assert!(told.elapsed() < Duration::from_secs(12), "{:?}", told.elapsed());
    assert_eq!(gateway.process.count("were cut off"), 0);
}

fn the_stream_comes_over_http2() {
    let gateway = Apiserver::start(PATIENT);
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let output = std::process::Command::new(tools::CURL.as_ref().unwrap())
        .args(["--http2-prior-knowledge", "-sN", "--max-time", "2.5", "-H", "accept: text/event-stream"])
        .args(["-w", "\n%{http_version}", &format!("http://{}/dataservers", gateway.listen)])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("event: state").count(), 1, "{text}");
    assert!(text.matches("event: delta").count() >= 1, "{text}");
    assert!(text.ends_with("\n2"), "{text}");
}
