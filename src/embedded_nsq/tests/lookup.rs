//! nsqlookupd's HTTP API.

use serde_json::json;

use super::*;

#[tokio::test]
async fn lookup_tells_where_a_topic_is() {
    let server = start(Limits::default()).await;
    let unknown = server.lookup("/lookup?topic=topic").await;
    assert_eq!((unknown.status, &unknown.json()["message"]), (404, &"TOPIC_NOT_FOUND".into()));
    let missing = server.lookup("/lookup").await;
    assert_eq!((missing.status, &missing.json()["message"]), (400, &"MISSING_ARG_TOPIC".into()));

    let _consumer = server.consumer("topic", "c#ephemeral", 1).await;
    let known = server.lookup("/lookup?topic=topic").await.json();
    assert_eq!(known["channels"], json!(["c#ephemeral"]));
    let producer = &known["producers"][0];
    assert_eq!(producer["broadcast_address"], "127.0.0.1");
    assert_eq!(producer["tcp_port"], server.addresses.tcp.port());
    assert_eq!(producer["http_port"], server.addresses.http.port());
    assert_eq!(producer["remote_address"], server.addresses.tcp.to_string());
    assert!(producer["hostname"].as_str().is_some_and(|name| !name.is_empty()));
}

#[tokio::test]
async fn the_other_paths_answer_as_nsqlookupd_does() {
    let server = start(Limits::default()).await;
    assert_eq!(server.lookup("/ping").await.body, "OK");
    assert!(server.lookup("/info").await.json()["version"].is_string());
    assert_eq!(server.lookup("/topics").await.json(), json!({"topics": []}));
    assert_eq!(server.lookup("/channels?topic=none").await.json(), json!({"channels": []}));
    assert_eq!(server.lookup("/nope").await.status, 404);

    let made = request(server.addresses.lookup, "POST", "/topic/create?topic=made", b"").await;
    assert_eq!(made.status, 200);
    assert_eq!(server.lookup("/topics").await.json(), json!({"topics": ["made"]}));
    let node = server.lookup("/nodes").await.json()["producers"][0].take();
    assert_eq!((&node["topics"], &node["tombstones"]), (&json!(["made"]), &json!([false])));
}

#[tokio::test]
async fn listening_on_every_address_the_one_that_was_reached_is_told() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let listen = Listen { tcp: everywhere, http: everywhere, lookup: everywhere };
    let server = start_on(listen, Limits::default()).await;
    let reached = SocketAddr::from(([127, 0, 0, 1], server.addresses.lookup.port()));
    let nodes = request(reached, "GET", "/nodes", b"").await.json();
    assert_eq!(nodes["producers"][0]["broadcast_address"], "127.0.0.1");
}
