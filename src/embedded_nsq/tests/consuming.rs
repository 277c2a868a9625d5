//! Topics, channels and consumers.

use super::*;

#[tokio::test]
async fn a_published_message_reaches_its_subscriber() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 1).await;
    let before = super::super::message::wall_clock_nanos();
    server.publish("topic", "127.0.0.1:80").await;
    let Frame::Message { id, attempts, timestamp_nanos, body } = consumer.frame().await else {
        panic!("no message");
    };
    assert_eq!((attempts, body.as_str()), (1, "127.0.0.1:80"));
    assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    assert!((before..=super::super::message::wall_clock_nanos()).contains(&timestamp_nanos));

    consumer.command(&format!("FIN {id}")).await;
    consumer.expect_no_message().await;
    let stats = server.channel("topic", "channel").await;
    assert_eq!((&stats["depth"], &stats["in_flight_count"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn many_messages_arrive_in_order_and_none_is_lost() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 100).await;
    let mut publisher = server.client().await;
    let bodies: Vec<String> = (0..3_000).map(|number| format!("message {number}")).collect();
    let mut commands = Vec::new();
    for body in &bodies {
        commands.extend([b"PUB topic\n".as_slice(), &prefixed(body.as_bytes())].concat());
    }
    publisher.send(&commands).await;
    for body in &bodies {
        assert_eq!(consumer.consume().await, *body);
    }
    for _ in &bodies {
        assert_eq!(publisher.frame().await, Frame::response("OK"));
    }
}

#[tokio::test]
async fn an_unanswered_message_is_delivered_again() {
    let limits = Limits { msg_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = start(limits).await;
    let mut consumer = server.consumer("topic", "channel", 1).await;
    server.publish("topic", "body").await;
    let (id, attempts, _) = consumer.message().await;
    assert_eq!(attempts, 1);
    assert_eq!(consumer.message().await, (id, 2, "body".to_owned()));
    assert!(server.channel("topic", "channel").await["timeout_count"].as_u64() >= Some(1));
}

#[tokio::test]
async fn a_leaving_consumers_messages_go_to_another() {
    let limits = Limits { msg_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = start(limits).await;
    let mut first = server.consumer("topic", "channel", 1).await;
    server.publish("topic", "body").await;
    let (id, _, _) = first.message().await;
    drop(first);
    let mut second = server.consumer("topic", "channel", 1).await;
    assert_eq!(second.message().await, (id, 2, "body".to_owned()));
}

#[tokio::test]
async fn requeue_delivers_again_at_once_or_later() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 1).await;
    server.publish("topic", "body").await;
    let (id, _, _) = consumer.message().await;
    consumer.command(&format!("REQ {id} 0")).await;
    assert_eq!(consumer.message().await.1, 2);

    consumer.command(&format!("REQ {id} 200")).await;
    consumer.expect_no_message().await;
    assert_eq!(server.channel("topic", "channel").await["deferred_count"], 1);
    assert_eq!(consumer.message().await, (id, 3, "body".to_owned()));
}

#[tokio::test]
async fn touch_puts_off_the_timeout() {
    let limits = Limits { msg_timeout: Duration::from_secs(1), ..Limits::default() };
    let server = start(limits).await;
    let mut consumer = server.consumer("topic", "channel", 1).await;
    server.publish("topic", "body").await;
    let (id, _, _) = consumer.message().await;
    for _ in 0..6 {
        sleep(Duration::from_millis(250)).await;
        consumer.command(&format!("TOUCH {id}")).await;
    }
    consumer.command(&format!("FIN {id}")).await;
    consumer.expect_no_message().await;
    assert_eq!(server.channel("topic", "channel").await["timeout_count"], 0);
}

#[tokio::test]
async fn a_deferred_publish_waits_for_its_time() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 1).await;
    consumer.command_with_body("DPUB topic 150", b"later").await;
    assert_eq!(consumer.frame().await, Frame::response("OK"));
    assert_eq!(server.channel("topic", "channel").await["deferred_count"], 1);
    assert_eq!(consumer.consume().await, "later");
}

#[tokio::test]
async fn a_batch_is_published_as_single_messages() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 9).await;
    let batch = [2_u32.to_be_bytes().as_slice(), &prefixed(b"a"), &prefixed(b"b")].concat();
    consumer.command_with_body("MPUB topic", &batch).await;
    let mut frames = Vec::new();
    for _ in 0..3 {
        frames.push(match consumer.frame().await {
            Frame::Message { body, .. } | Frame::Response(body) => body,
            other => panic!("{other:?}"),
        });
    }
    frames.sort();
    assert_eq!(frames, ["OK", "a", "b"]);
}

#[tokio::test]
async fn the_ready_count_bounds_what_is_in_flight() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 2).await;
    for body in ["a", "b", "c", "d"] {
        server.publish("topic", body).await;
    }
    let (first, _, _) = consumer.message().await;
    consumer.message().await;
    consumer.expect_no_message().await;
    consumer.command(&format!("FIN {first}")).await;
    assert_eq!(consumer.message().await.2, "c");
    consumer.expect_no_message().await;
    consumer.command("RDY 0").await;
    consumer.command(&format!("FIN {first}")).await;
    assert!(matches!(consumer.frame().await, Frame::Error(text) if text.starts_with("E_FIN_FAILED")));
    consumer.expect_no_message().await;
    consumer.command("RDY 3").await;
    assert_eq!(consumer.message().await.2, "d");
}

#[tokio::test]
async fn closing_takes_no_more_but_still_answers() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 5).await;
    server.publish("topic", "a").await;
    let (id, _, _) = consumer.message().await;
    consumer.command("CLS").await;
    assert_eq!(consumer.frame().await, Frame::response("CLOSE_WAIT"));
    server.publish("topic", "b").await;
    consumer.command("RDY 5").await;
    consumer.expect_no_message().await;
    consumer.command(&format!("FIN {id}")).await;
    consumer.expect_no_message().await;
    let stats = server.channel("topic", "channel").await;
    assert_eq!((&stats["depth"], &stats["in_flight_count"]), (&1.into(), &0.into()));
    assert_eq!(stats["clients"][0]["state"], 4);
}

#[tokio::test]
async fn consumers_of_one_channel_share_its_messages() {
    let server = start(Limits::default()).await;
    let mut first = server.consumer("topic", "channel", 1).await;
    let mut second = server.consumer("topic", "channel", 1).await;
    server.publish("topic", "a").await;
    server.publish("topic", "b").await;
    let mut bodies = [first.message().await.2, second.message().await.2];
    bodies.sort();
    assert_eq!(bodies, ["a", "b"]);
}

#[tokio::test]
async fn what_one_consumer_leaves_is_taken_by_whoever_can() {
    let server = start(Limits::default()).await;
    let mut hungry = server.consumer("topic", "channel", 100).await;
    let _full = server.consumer("topic", "channel", 0).await;
    let batch = [100_u32.to_be_bytes().to_vec(), prefixed(b"x").repeat(100)].concat();
    let mut publisher = server.client().await;
    publisher.command_with_body("MPUB topic", &batch).await;
    for _ in 0..100 {
        hungry.message().await;
    }
}

#[tokio::test]
async fn an_idle_consumer_is_woken_while_another_is_full() {
    let server = start(Limits::default()).await;
    let mut full = server.consumer("topic", "channel", 1).await;
    let mut idle = server.consumer("topic", "channel", 0).await;
    server.publish("topic", "a").await;
    full.message().await;
    for body in ["b", "c", "d"] {
        server.publish("topic", body).await;
    }
    idle.command("RDY 10").await;
    for body in ["b", "c", "d"] {
        assert_eq!(idle.consume().await, body);
    }
    for body in ["e", "f"] {
        server.publish("topic", body).await;
        assert_eq!(idle.consume().await, body);
    }
}

#[tokio::test]
async fn each_channel_gets_a_copy() {
    let server = start(Limits::default()).await;
    let mut first = server.consumer("topic", "one", 9).await;
    let mut second = server.consumer("topic", "two", 9).await;
    server.publish("topic", "a").await;
    let ids = [first.message().await, second.message().await];
    assert_eq!(ids[0], ids[1]);
    first.command(&format!("FIN {}", ids[0].0)).await;
    first.expect_no_message().await;
    assert_eq!(server.channel("topic", "two").await["in_flight_count"], 1);
}

#[tokio::test]
async fn messages_wait_for_the_first_channel_and_for_an_absent_consumer() {
    let server = start(Limits::default()).await;
    server.publish("topic", "early").await;
    assert_eq!(server.topic("topic").await["depth"], 1);
    let mut consumer = server.consumer("topic", "durable", 1).await;
    assert_eq!(consumer.consume().await, "early");
    consumer.expect_no_message().await;
    drop(consumer);

    eventually("the consumer has left", || async {
        server.channel("topic", "durable").await["client_count"] == 0
    })
    .await;
    server.publish("topic", "meanwhile").await;
    let mut late = server.consumer("topic", "other", 1).await;
    let mut back = server.consumer("topic", "durable", 1).await;
    assert_eq!(back.consume().await, "meanwhile");
    late.expect_no_message().await;
}

#[tokio::test]
async fn what_is_ephemeral_vanishes_with_its_last_consumer() {
    let server = start(Limits::default()).await;
    let first = server.consumer("topic", "gone#ephemeral", 1).await;
    let second = server.consumer("topic", "gone#ephemeral", 1).await;
    let third = server.consumer("brief#ephemeral", "gone#ephemeral", 1).await;
    drop(first);
    eventually("one consumer is left", || async {
        server.channel("topic", "gone#ephemeral").await["client_count"] == 1
    })
    .await;
    drop((second, third));
    eventually("the ephemeral ones are gone", || async {
        let topics = server.lookup("/topics").await.json();
        let channels = server.lookup("/channels?topic=topic").await.json();
        topics["topics"] == serde_json::json!(["topic"]) && channels["channels"] == serde_json::json!([])
    })
    .await;
}

#[tokio::test]
async fn deleting_a_channel_disconnects_its_consumers() {
    let server = start(Limits::default()).await;
    let mut consumer = server.consumer("topic", "channel", 0).await;
    let mut other = server.consumer("topic", "other", 1).await;
    assert_eq!(server.post("/channel/delete?topic=topic&channel=channel", b"").await.status, 200);
    assert_eq!(consumer.frame().await, Frame::Closed);
    other.expect_no_message().await;
    assert_eq!(server.post("/topic/delete?topic=topic", b"").await.status, 200);
    assert_eq!(other.frame().await, Frame::Closed);
}
