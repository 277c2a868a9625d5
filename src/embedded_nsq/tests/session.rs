//! Connections: greeting, errors, heartbeats, the end.

use super::*;

#[tokio::test]
async fn another_protocol_is_refused() {
    let server = start(Limits::default()).await;
    let mut client = Client::connect(server.addresses.tcp).await;
    client.send(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.frame().await, Frame::error("E_BAD_PROTOCOL"));
    assert_eq!(client.frame().await, Frame::Closed);
}

#[tokio::test]
async fn identify_negotiates() {
    let server = start(Limits::default()).await;
    let mut client = server.client().await;
    let body = br#"{"feature_negotiation":true,"client_id":"me","user_agent":"test/1","msg_timeout":5000}"#;
    client.command_with_body("IDENTIFY", body).await;
    let Frame::Response(answer) = client.frame().await else { panic!("no response") };
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((&answer["msg_timeout"], &answer["max_rdy_count"]), (&5000.into(), &2500.into()));

    client.command("SUB topic channel").await;
    assert_eq!(client.frame().await, Frame::response("OK"));
    let stats = server.channel("topic", "channel").await;
    assert_eq!(stats["clients"][0]["client_id"], "me");
    assert_eq!(stats["clients"][0]["user_agent"], "test/1");
}

#[tokio::test]
async fn fatal_errors_close_the_connection() {
    let server = start(Limits::default()).await;
    for (commands, error) in [
        ("WHAT\n", "E_INVALID invalid command WHAT"),
        ("RDY 1\n", "E_INVALID cannot RDY in current state"),
        ("SUB bad! channel\n", "E_BAD_TOPIC SUB topic name \"bad!\" is not valid"),
        ("SUB topic bad!\n", "E_BAD_CHANNEL SUB channel name \"bad!\" is not valid"),
        ("PUB topic\n\0\0\0\0", "E_BAD_MESSAGE PUB invalid message body size 0"),
        ("MPUB topic\n\0\0\0\0", "E_BAD_BODY MPUB invalid body size 0"),
        ("IDENTIFY\n\0\0\0\x01{", "E_BAD_BODY IDENTIFY failed to decode JSON body"),
        ("AUTH\n\0\0\0\x01x", "E_AUTH_DISABLED AUTH disabled"),
    ] {
        let mut client = server.client().await;
        client.send(commands.as_bytes()).await;
        // Input behind the error must not keep the error from the client.
        client.send(&[b'x'; 5_000]).await;
        assert_eq!(client.frame().await, Frame::error(error));
        assert_eq!(client.frame().await, Frame::Closed);
    }
}

#[tokio::test]
async fn late_answers_are_errors_that_the_connection_survives() {
    let server = start(Limits::default()).await;
    let mut owner = server.consumer("topic", "channel", 1).await;
    server.publish("topic", "body").await;
    let (id, _, _) = owner.message().await;

    let mut other = server.consumer("topic", "channel", 1).await;
    for (command, code) in [("FIN", "E_FIN_FAILED"), ("TOUCH", "E_TOUCH_FAILED")] {
        other.command(&format!("{command} {id}")).await;
        let error = format!("{code} {command} {id} failed client does not own message");
        assert_eq!(other.frame().await, Frame::error(&error));
    }
    other.command("REQ 0123456789abcdef 0").await;
    let error = "E_REQ_FAILED REQ 0123456789abcdef failed ID not in flight";
    assert_eq!(other.frame().await, Frame::error(error));
    other.command("FIN not-hexadecimal!").await;
    let error = "E_FIN_FAILED FIN not-hexadecimal! failed ID not in flight";
    assert_eq!(other.frame().await, Frame::error(error));

    owner.command(&format!("FIN {id}")).await;
    server.publish("topic", "next").await;
    let next = tokio::select! { body = owner.consume() => body, body = other.consume() => body };
    assert_eq!(next, "next");
}

#[tokio::test]
async fn a_client_that_answers_heartbeats_stays() {
    let limits = Limits { heartbeat_interval: Duration::from_millis(200), ..Limits::default() };
    let server = start(limits).await;
    let mut client = server.client().await;
    for _ in 0..5 {
        assert_eq!(client.frame().await, Frame::response("_heartbeat_"));
        client.command("NOP").await;
    }
}

#[tokio::test]
async fn a_silent_client_is_disconnected_and_its_ephemeral_channel_goes() {
    let limits = Limits { heartbeat_interval: Duration::from_millis(100), ..Limits::default() };
    let server = start(limits).await;
    let mut client = server.consumer("topic", "channel#ephemeral", 1).await;
    assert_eq!(client.frame().await, Frame::response("_heartbeat_"));
    assert_eq!(client.frame().await, Frame::Closed);
    eventually("the channel is gone", || async {
        server.channel("topic", "channel#ephemeral").await.is_null()
    })
    .await;
}

#[tokio::test]
async fn heartbeats_can_be_turned_off_by_publishers_only() {
    let limits = Limits { heartbeat_interval: Duration::from_millis(50), ..Limits::default() };
    let server = start(limits).await;
    let mut client = server.client().await;
    client.command_with_body("IDENTIFY", br#"{"heartbeat_interval":-1}"#).await;
    assert_eq!(client.frame().await, Frame::response("OK"));
    let silence = timeout(Duration::from_millis(300), client.read_frame()).await;
    assert!(silence.is_err(), "{silence:?}");
    client.publish("topic", b"body").await;
    client.command("SUB topic channel").await;
    let error = "E_INVALID cannot SUB with heartbeats disabled";
    assert_eq!(client.frame().await, Frame::error(error));
}

#[tokio::test]
async fn shutdown_closes_connections_and_returns() {
    let mut server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 1).await;
    // The answer shows that the connection was accepted before the shutdown.
    consumer.expect_no_message().await;
    let mut idle_http = Client::connect(server.addresses.http).await;
    server.stop.take().map(|stop| stop.send(()));
    assert_eq!(consumer.frame().await, Frame::Closed);
    // Reset where it was still in the listener's queue.
    assert!(matches!(idle_http.frame().await, Frame::Closed | Frame::Reset));
    drop((consumer, idle_http));
    timeout(PATIENCE, &mut server.running).await.expect("in time").expect("no panic");
    assert!(TcpStream::connect(server.addresses.tcp).await.is_err());
}
