//! Query parameters, read as nsqd reads them.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use super::super::names::Name;
use super::answer::Fault;

/// The pairs of the query, in order; the first of a key counts.
#[derive(Debug)]
pub(in super::super) struct Params(Vec<(String, String)>);

impl Params {
    pub(in super::super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The topic; `invalid` for a name that breaks the rule, as nsqd has two words for that.
    pub(super) fn topic(&self, invalid: Fault) -> Result<Name<'_>, Fault> {
        let topic = self.get("topic").ok_or(Fault::MISSING_ARG_TOPIC)?;
        Name::parse(topic.as_bytes()).ok_or(invalid)
    }

    pub(super) fn topic_and_channel(&self) -> Result<(Name<'_>, Name<'_>), Fault> {
        let topic = self.topic(Fault::INVALID_ARG_TOPIC)?;
        let channel = self.get("channel").ok_or(Fault::MISSING_ARG_CHANNEL)?;
        let channel = Name::parse(channel.as_bytes()).ok_or(Fault::INVALID_ARG_CHANNEL)?;
        Ok((topic, channel))
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(_) => Err(Fault::INVALID_REQUEST),
        }
    }
}
