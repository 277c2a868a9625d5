//! nsqlookupd's HTTP API, about the one nsqd of this process.

use std::net::IpAddr;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::json;

use super::http::{
    Context, Fault, Params, create_channel, create_topic, method_not_allowed, not_found, ok_json, ping,
};
use super::identify::VERSION;

/// nsqlookupd's paths.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/ping", get(ping))
        .route("/info", get(info))
        .route("/lookup", get(lookup))
        .route("/topics", get(topics))
        .route("/channels", get(channels))
        .route("/nodes", get(nodes))
        .route("/topic/create", post(create_topic))
        .route("/channel/create", post(create_channel))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
}

/// Where and how this process is reached.
#[derive(Debug, Serialize)]
struct Producer {
    remote_address: String,
    hostname: String,
    broadcast_address: IpAddr,
    tcp_port: u16,
    http_port: u16,
    version: &'static str,
}

impl Producer {
    fn new(context: &Context) -> Self {
        let address = context.broadcast_address();
        Self {
            remote_address: std::net::SocketAddr::new(address, context.tcp_port()).to_string(),
            hostname: context.node.hostname.clone(),
            broadcast_address: address,
            tcp_port: context.tcp_port(),
            http_port: context.http_port(),
            version: VERSION,
        }
    }
}

async fn info() -> Result<Response, Fault> {
    ok_json(&json!({ "version": VERSION }))
}

async fn lookup(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    let topic = params.get("topic").ok_or(Fault::MISSING_ARG_TOPIC)?;
    let channels = context.node.broker.channels(topic).ok_or(Fault::TOPIC_NOT_FOUND)?;
    ok_json(&json!({ "channels": channels, "producers": [Producer::new(&context)] }))
}

async fn topics(State(context): State<Context>) -> Result<Response, Fault> {
    ok_json(&json!({ "topics": context.node.broker.topics() }))
}

/// An unknown topic has no channels; only `/lookup` calls that an error.
async fn channels(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    let topic = params.get("topic").ok_or(Fault::MISSING_ARG_TOPIC)?;
    ok_json(&json!({ "channels": context.node.broker.channels(topic).unwrap_or_default() }))
}

#[derive(Debug, Serialize)]
struct NodeAnswer {
    #[serde(flatten)]
    producer: Producer,
    /// Never set here: a tombstone hides one nsqd of many from a topic.
    tombstones: Vec<bool>,
    topics: Vec<String>,
}

async fn nodes(State(context): State<Context>) -> Result<Response, Fault> {
    let topics = context.node.broker.topics();
    let tombstones = vec![false; topics.len()];
    let node = NodeAnswer { producer: Producer::new(&context), tombstones, topics };
    ok_json(&json!({ "producers": [node] }))
}
