//! Answers and faults in the form that nsqd and nsqlookupd give them.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::broker::{NotFound, Refused};
use super::super::protocol::CommandError;

/// An error answer: a status, and `{"message": …}` with a code word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Fault {
    status: StatusCode,
    message: &'static str,
}

const NSQ_CONTENT_TYPE: (HeaderName, &str) =
    (HeaderName::from_static("x-nsq-content-type"), "nsq; version=1.0");
const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json; charset=utf-8");

pub(in super::super) fn ok(text: impl Into<String>) -> Response {
    ([NSQ_CONTENT_TYPE], text.into()).into_response()
}

pub(in super::super) fn ok_empty() -> Response {
    [NSQ_CONTENT_TYPE].into_response()
}

pub(in super::super) fn ok_json(value: &impl Serialize) -> Result<Response, Fault> {
    let json = serde_json::to_vec(value).map_err(|_| Fault::INTERNAL_ERROR)?;
    Ok(([NSQ_CONTENT_TYPE, JSON], json).into_response())
}

impl Fault {
    const fn new(status: StatusCode, message: &'static str) -> Self {
        Self { status, message }
    }

    pub(super) const INVALID_REQUEST: Self = Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST");
    pub(in super::super) const MISSING_ARG_TOPIC: Self =
        Self::new(StatusCode::BAD_REQUEST, "MISSING_ARG_TOPIC");
    pub(super) const MISSING_ARG_CHANNEL: Self = Self::new(StatusCode::BAD_REQUEST, "MISSING_ARG_CHANNEL");
    pub(super) const INVALID_TOPIC: Self = Self::new(StatusCode::BAD_REQUEST, "INVALID_TOPIC");
    pub(super) const INVALID_ARG_TOPIC: Self = Self::new(StatusCode::BAD_REQUEST, "INVALID_ARG_TOPIC");
    pub(super) const INVALID_ARG_CHANNEL: Self = Self::new(StatusCode::BAD_REQUEST, "INVALID_ARG_CHANNEL");
    pub(super) const INVALID_DEFER: Self = Self::new(StatusCode::BAD_REQUEST, "INVALID_DEFER");
    pub(super) const MSG_EMPTY: Self = Self::new(StatusCode::BAD_REQUEST, "MSG_EMPTY");
    pub(super) const MSG_TOO_BIG: Self = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "MSG_TOO_BIG");
    pub(super) const BODY_TOO_BIG: Self = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_BIG");
    pub(super) const REQUEST_TIMEOUT: Self = Self::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT");
    pub(super) const NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, "NOT_FOUND");
    pub(in super::super) const TOPIC_NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, "TOPIC_NOT_FOUND");
    const CHANNEL_NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, "CHANNEL_NOT_FOUND");
    pub(super) const METHOD_NOT_ALLOWED: Self =
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED");
    pub(super) const INTERNAL_ERROR: Self = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR");
    pub(super) const MEMORY_FULL: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "MEMORY_FULL");
    const TOO_MANY_TOPICS: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "TOO_MANY_TOPICS");
    const TOO_MANY_CHANNELS: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "TOO_MANY_CHANNELS");
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        // The code words need no escaping.
        let json = format!(r#"{{"message":"{}"}}"#, self.message);
        (self.status, [NSQ_CONTENT_TYPE, JSON], json).into_response()
    }
}

impl From<NotFound> for Fault {
    fn from(missing: NotFound) -> Self {
        match missing {
            NotFound::Topic => Self::TOPIC_NOT_FOUND,
            NotFound::Channel => Self::CHANNEL_NOT_FOUND,
        }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooManyTopics => Self::TOO_MANY_TOPICS,
            Refused::TooManyChannels => Self::TOO_MANY_CHANNELS,
            Refused::MemoryFull => Self::MEMORY_FULL,
        }
    }
}

/// A faulty binary batch; nsqd answers all of them with 413, too.
impl From<CommandError> for Fault {
    fn from(error: CommandError) -> Self {
        let message = error.code.strip_prefix("E_").unwrap_or(error.code);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}
