//! nsqd's HTTP API.

use super::*;

fn message(answer: &Answer) -> (u16, String) {
    let word = answer.json()["message"].as_str().expect("a code word").to_owned();
    (answer.status, word)
}

#[tokio::test]
async fn ping_info_and_unknown_paths() {
    let server = start(Limits::default()).await;
    let ping = server.get("/ping").await;
    assert_eq!((ping.status, ping.body.as_str()), (200, "OK"));
    assert_eq!(request(server.addresses.http, "HEAD", "/ping", b"").await.status, 200);

    let info = server.get("/info").await;
    assert!(info.head.contains("content-type: application/json; charset=utf-8"));
    assert!(info.head.contains("x-nsq-content-type: nsq; version=1.0"));
    let info = info.json();
    assert_eq!(info["tcp_port"], server.addresses.tcp.port());
    assert_eq!(info["http_port"], server.addresses.http.port());
    assert_eq!(info["broadcast_address"], "127.0.0.1");
    assert!(info["start_time"].as_i64() > Some(1_600_000_000), "{info}");

    assert_eq!(message(&server.get("/nope").await), (404, "NOT_FOUND".to_owned()));
    assert_eq!(message(&server.get("/pub").await), (405, "METHOD_NOT_ALLOWED".to_owned()));
}

#[tokio::test]
async fn pub_publishes_one_message() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 9).await;
    let answer = server.post("/pub?topic=topic", b"one\ntwo").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
    assert_eq!(consumer.consume().await, "one\ntwo");

    assert_eq!(server.post("/pub?topic=topic&defer=150", b"later").await.status, 200);
    assert_eq!(server.channel("topic", "channel").await["deferred_count"], 1);
    assert_eq!(consumer.consume().await, "later");
}

#[tokio::test]
async fn mpub_publishes_lines_or_a_binary_batch() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 9).await;
    assert_eq!(server.post("/mpub?topic=topic", b"a\n\nb\nc").await.body, "OK");
    for body in ["a", "b", "c"] {
        assert_eq!(consumer.consume().await, body);
    }
    let batch = [1_u32.to_be_bytes().as_slice(), &prefixed(b"d\ne")].concat();
    assert_eq!(server.post("/mpub?topic=topic&binary=true", &batch).await.body, "OK");
    assert_eq!(consumer.consume().await, "d\ne");
    assert_eq!(server.post("/mpub?topic=topic&binary=0", b"f").await.body, "OK");
    assert_eq!(consumer.consume().await, "f");
}

#[tokio::test]
async fn faults_have_nsqds_status_and_word() {
    let limits = Limits { message_bytes: 10, body_bytes: 30, batch_messages: 2, ..Limits::default() };
    let server = start(limits).await;
    let [at_limit, over] = [10, 11].map(|bytes| vec![b'x'; bytes]);
    assert_eq!(server.post("/pub?topic=t", &at_limit).await.status, 200);
    for (path, body, status, word) in [
        ("/pub", b"x".as_slice(), 400, "MISSING_ARG_TOPIC"),
        ("/pub?topic=bad!", b"x", 400, "INVALID_TOPIC"),
        ("/pub?topic=t", b"", 400, "MSG_EMPTY"),
        ("/pub?topic=t", &over, 413, "MSG_TOO_BIG"),
        ("/pub?topic=t&defer=soon", b"x", 400, "INVALID_DEFER"),
        ("/pub?topic=t&defer=-1", b"x", 400, "INVALID_DEFER"),
        ("/pub?topic=t&defer=3600001", b"x", 400, "INVALID_DEFER"),
        ("/mpub", b"x", 400, "MISSING_ARG_TOPIC"),
        ("/mpub?topic=t", &over, 413, "MSG_TOO_BIG"),
        ("/mpub?topic=t", &[b'\n'; 31], 413, "BODY_TOO_BIG"),
        ("/mpub?topic=t", b"a\nb\nc", 413, "BODY_TOO_BIG"),
        ("/mpub?topic=t&binary=true", b"\0\0\0\0", 413, "BAD_BODY"),
        ("/mpub?topic=t&binary=true", b"\0\0\0\x01\0\0\0\0", 413, "BAD_MESSAGE"),
        ("/topic/create", b"", 400, "MISSING_ARG_TOPIC"),
        ("/topic/create?topic=!", b"", 400, "INVALID_TOPIC"),
        ("/topic/delete?topic=none", b"", 404, "TOPIC_NOT_FOUND"),
        ("/topic/empty?topic=none", b"", 404, "TOPIC_NOT_FOUND"),
        ("/channel/create?topic=none&channel=c", b"", 404, "TOPIC_NOT_FOUND"),
        ("/channel/create?topic=t", b"", 400, "MISSING_ARG_CHANNEL"),
        ("/channel/create?topic=!&channel=c", b"", 400, "INVALID_ARG_TOPIC"),
        ("/channel/create?topic=t&channel=!", b"", 400, "INVALID_ARG_CHANNEL"),
        ("/channel/delete?topic=t&channel=none", b"", 404, "CHANNEL_NOT_FOUND"),
        ("/channel/empty?topic=t&channel=none", b"", 404, "CHANNEL_NOT_FOUND"),
    ] {
        let answer = server.post(path, body).await;
        assert_eq!(message(&answer), (status, word.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_bounded_too() {
    let limits = Limits { message_bytes: 10, ..Limits::default() };
    let server = start(limits).await;
    let mut client = Client::connect(server.addresses.http).await;
    client.send(b"POST /pub?topic=t HTTP/1.1\r\nhost: nsq\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send(b"b\r\nxxxxxxxxxxx\r\n").await;
    let mut answer = vec![0; 12];
    timeout(PATIENCE, client.stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_head_or_body_that_never_ends_is_not_waited_for() {
    let server = start(Limits { http_timeout: Duration::from_millis(100), ..Limits::default() }).await;
    let mut head = Client::connect(server.addresses.http).await;
    head.send(b"GET /ping HT").await;
    let mut body = Client::connect(server.addresses.http).await;
    body.send(b"POST /pub?topic=t HTTP/1.1\r\nhost: nsq\r\ncontent-length: 9\r\n\r\nx").await;
    let mut answer = vec![0; 12];
    timeout(PATIENCE, body.stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 408");
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, head.stream.read_to_end(&mut rest)).await.expect("closed in time");
}

#[tokio::test]
async fn topics_and_channels_are_made_emptied_and_deleted() {
    let server = start(Limits::default()).await;
    assert_eq!(server.post("/topic/create?topic=t", b"").await.status, 200);
    server.publish("t", "a").await;
    assert_eq!(server.post("/topic/empty?topic=t", b"").await.status, 200);
    assert_eq!(server.topic("t").await["depth"], 0);

    assert_eq!(server.post("/channel/create?topic=t&channel=c%23ephemeral", b"").await.status, 200);
    server.publish("t", "b").await;
    assert_eq!(server.channel("t", "c#ephemeral").await["depth"], 1);
    assert_eq!(server.post("/channel/empty?topic=t&channel=c%23ephemeral", b"").await.status, 200);
    assert_eq!(server.channel("t", "c#ephemeral").await["depth"], 0);
    assert_eq!(server.post("/channel/delete?topic=t&channel=c%23ephemeral", b"").await.status, 200);
    assert!(server.channel("t", "c#ephemeral").await.is_null());
    assert_eq!(server.post("/topic/delete?topic=t", b"").await.status, 200);
    assert!(server.topic("t").await.is_null());
}

#[tokio::test]
async fn stats_tell_about_topics_channels_and_clients() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 3).await;
    let _other = server.consumer("other", "channel", 1).await;
    consumer.publish("topic", b"four").await;
    consumer.consume().await;
    consumer.expect_no_message().await;

    let all = server.get("/stats?format=json").await.json();
    assert_eq!(all["health"], "OK");
    let names: Vec<_> = all["topics"].as_array().expect("topics").iter().map(|t| &t["topic_name"]).collect();
    assert_eq!(names, ["elsewhere", "other", "topic"]);
    assert_eq!(all["producers"][0]["pub_counts"][0]["count"], 1);

    let one = server.get("/stats?format=json&topic=topic&channel=channel").await.json();
    let topic = &one["topics"][0];
    assert_eq!((&topic["message_count"], &topic["message_bytes"]), (&1.into(), &4.into()));
    let channel = &topic["channels"][0];
    assert_eq!((&channel["message_count"], &channel["client_count"]), (&1.into(), &1.into()));
    let client = &channel["clients"][0];
    assert_eq!((&client["ready_count"], &client["finish_count"]), (&3.into(), &1.into()));

    let few = server.get("/stats?format=json&topic=topic&include_clients=false").await.json();
    assert!(few["producers"].is_null() && few["topics"][0]["channels"][0]["clients"].is_null());
    let none = server.get("/stats?format=json&topic=none").await.json();
    assert_eq!(none["topics"], serde_json::json!([]));

    let text = server.get("/stats").await;
    assert!(text.head.contains("content-type: text/plain"));
    assert!(text.body.contains("Health: OK") && text.body.contains("[topic          ]"), "{}", text.body);
    assert!(text.body.contains("[channel                  ] depth: 0"), "{}", text.body);
}

/// Its request was on its way when the server was told to stop.
#[tokio::test]
async fn who_has_just_come_is_answered_at_the_end() {
    let mut server = start(Limits::default()).await;
    let addr = server.addresses.http;
    let mut silent = TcpStream::connect(addr).await.unwrap();
    let mut comes = TcpStream::connect(addr).await.unwrap();
    // The answer shows that those before it were accepted.
    assert_eq!(server.get("/ping").await.status, 200);
    server.stop.take().map(|stop| stop.send(()));
    eventually("the end of the listener", async || TcpStream::connect(addr).await.is_err()).await;
    comes.write_all(b"GET /ping HTTP/1.1\r\nhost: nsq\r\n\r\n").await.unwrap();
    let (mut answer, mut nothing) = (String::new(), String::new());
    timeout(PATIENCE, comes.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    timeout(PATIENCE, silent.read_to_string(&mut nothing)).await.unwrap().unwrap();
    assert_eq!(nothing, "");
    timeout(PATIENCE, server.running).await.unwrap().unwrap();
}
