//! What is bounded, at its bound.

use super::super::Listener;
use super::*;

#[tokio::test]
async fn a_full_topic_drops_its_oldest_messages() {
    let server = start(Limits { queue_messages: 3, ..Limits::default() }).await;
    for body in ["a", "b", "c", "d", "e"] {
        server.publish("topic", body).await;
    }
    let stats = server.topic("topic").await;
    assert_eq!((&stats["depth"], &stats["dropped_count"]), (&3.into(), &2.into()));
    let mut consumer = server.consumer("topic", "channel", 9).await;
    for body in ["c", "d", "e"] {
        assert_eq!(consumer.consume().await, body);
    }
    consumer.expect_no_message().await;
}

#[tokio::test]
async fn a_full_channel_drops_its_oldest_messages() {
    let server = start(Limits { queue_messages: 2, ..Limits::default() }).await;
    let mut consumer = server.consumer("topic", "channel", 0).await;
    for body in ["a", "b", "c"] {
        server.publish("topic", body).await;
    }
    assert_eq!(server.channel("topic", "channel").await["dropped_count"], 1);
    consumer.command("RDY 9").await;
    assert_eq!(consumer.consume().await, "b");
    assert_eq!(consumer.consume().await, "c");
}

#[tokio::test]
async fn full_message_memory_drops_the_oldest_of_all_topics() {
    let server = start(Limits { held_bytes: 10_000, ..Limits::default() }).await;
    let body = "x".repeat(3_000);
    for topic in ["one", "two", "three", "four"] {
        server.publish(topic, &body).await;
    }
    assert_eq!(server.topic("one").await["dropped_count"], 1);
    assert_eq!(server.topic("four").await["depth"], 1);

    let mut publisher = server.client().await;
    publisher.command_with_body("PUB topic", &[b'x'; 10_000]).await;
    let error = "E_PUB_FAILED PUB failed message memory is full";
    assert_eq!(publisher.frame().await, Frame::error(error));
}

#[tokio::test]
async fn message_memory_comes_back_with_finished_messages() {
    let server = start(Limits { held_bytes: 10_000, ..Limits::default() }).await;
    let mut consumer = server.consumer("topic", "channel", 1).await;
    let mut publisher = server.client().await;
    for _ in 0..20 {
        publisher.publish("topic", &[b'x'; 3_000]).await;
        consumer.consume().await;
    }
    assert_eq!(server.channel("topic", "channel").await["dropped_count"], 0);
}

#[tokio::test]
async fn deferred_messages_give_way_when_nothing_else_does() {
    let server = start(Limits { held_bytes: 10_000, ..Limits::default() }).await;
    let mut client = server.consumer("topic", "channel", 0).await;
    for delay in ["3600000", "1800000", "3600000"] {
        client.command_with_body(&format!("DPUB topic {delay}"), &[b'x'; 2_800]).await;
        assert_eq!(client.frame().await, Frame::response("OK"));
    }
    client.publish("other", &[b'x'; 2_800]).await;
    let stats = server.channel("topic", "channel").await;
    assert_eq!((&stats["deferred_count"], &stats["dropped_count"]), (&2.into(), &1.into()));
}

#[tokio::test]
async fn topics_and_channels_are_bounded() {
    let server = start(Limits { topics: 2, channels: 2, ..Limits::default() }).await;
    let _first = server.consumer("one", "channel", 1).await;
    let _second = server.consumer("two", "channel", 1).await;

    let mut client = server.client().await;
    client.command("SUB one another").await;
    assert_eq!(client.frame().await, Frame::error("E_SUB_FAILED SUB failed too many channels"));
    let mut client = server.client().await;
    client.command_with_body("PUB three", b"body").await;
    assert_eq!(client.frame().await, Frame::error("E_PUB_FAILED PUB failed too many topics"));
    let answer = server.post("/pub?topic=three", b"body").await;
    assert_eq!((answer.status, answer.json()["message"].as_str()), (503, Some("TOO_MANY_TOPICS")));
    let _third = server.consumer("one", "channel", 1).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_room_is_found_again() {
    let server = start(Limits { connections: 2, ..Limits::default() }).await;
    let mut first = server.consumer("topic", "channel", 1).await;
    let second = server.consumer("topic", "channel", 1).await;
    let mut third = Client::connect(server.addresses.tcp).await;
    assert_eq!(third.frame().await, Frame::Closed);
    first.expect_no_message().await;
    drop(second);
    eventually("there is room again", || async {
        let mut client = Client::connect(server.addresses.tcp).await;
        let _ = client.stream.write_all(b"  V2WHAT\n").await;
        client.frame().await == Frame::error("E_INVALID invalid command WHAT")
    })
    .await;
}

#[tokio::test]
async fn input_that_never_becomes_a_command_is_bounded() {
    let server = start(Limits { input_bytes: 100_000, ..Limits::default() }).await;
    let mut client = server.client().await;
    client.send(b"PUB topic\n\0\x10\0\0").await;
    // Less than the message may have, more than all connections together may have in part.
    let _ = client.stream.write_all(&vec![b'x'; 900_000]).await;
    assert_eq!(client.frame().await, Frame::Closed);
    server.publish("topic", "small").await;
}

#[tokio::test]
async fn half_a_command_is_not_waited_for_without_heartbeats() {
    let server = start(Limits { stall_timeout: Duration::from_millis(100), ..Limits::default() }).await;
    let mut client = server.client().await;
    client.command_with_body("IDENTIFY", br#"{"heartbeat_interval":-1}"#).await;
    assert_eq!(client.frame().await, Frame::response("OK"));
    client.send(b"PUB to").await;
    assert_eq!(client.frame().await, Frame::Closed);

    let mut silent = Client::connect(server.addresses.tcp).await;
    assert_eq!(silent.frame().await, Frame::Closed);
}

#[tokio::test]
async fn a_consumer_that_does_not_read_holds_back_only_what_its_socket_takes() {
    const MESSAGES: usize = 900;
    let server = start(Limits::default()).await;
    let mut slow = server.consumer("topic", "channel", 2_500).await;
    let body = "x".repeat(60_000);
    let mut publisher = server.client().await;
    for _ in 0..MESSAGES {
        publisher.publish("topic", body.as_bytes()).await;
    }
    // Sockets buffer a few MiB each way; 54 MB do not fit.
    let stats = server.channel("topic", "channel").await;
    assert!(stats["in_flight_count"].as_u64() < Some(MESSAGES as u64), "{stats}");
    assert!(stats["depth"].as_u64() > Some(0), "{stats}");
    for _ in 0..MESSAGES {
        assert_eq!(slow.consume().await.len(), body.len());
    }
    slow.expect_no_message().await;
}

#[tokio::test]
async fn a_client_that_never_takes_its_answers_is_no_longer_read() {
    const MIB: usize = 1024 * 1024;
    let limits =
        Limits { input_bytes: usize::MAX, stall_timeout: Duration::from_secs(1), ..Limits::default() };
    let server = start(limits).await;
    let mut client = server.client().await;
    client.command_with_body("IDENTIFY", br#"{"heartbeat_interval":-1}"#).await;
    assert_eq!(client.frame().await, Frame::response("OK"));
    let publishes = [b"PUB topic\n".as_slice(), &prefixed(b"x")].concat().repeat(10_000);
    let mut sent = 0;
    // Until the server gives up, and the socket with it. What was sent until then sits in the
    // sockets' buffers.
    let flood = async {
        while sent < 256 * MIB && client.stream.write_all(&publishes).await.is_ok() {
            sent += publishes.len();
        }
    };
    timeout(PATIENCE, flood).await.expect("the server stops reading and closes");
    assert!(sent < 64 * MIB, "{sent}");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_the_listener() {
    let server = start(Limits::default()).await;
    let listen = Listen { http: server.addresses.http, ..loopback() };
    let error = EmbeddedNsq::bind(listen, Limits::default()).await.expect_err("in use");
    assert_eq!((error.listener, error.addr), (Listener::Http, server.addresses.http));
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
}
