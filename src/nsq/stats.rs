//! Asking an nsqd over HTTP what time it is, and who reads our channel. The answer is bounded in time and size, and
//! counts only if it is nsqd's and knows the channel: at a port that was guessed there may be anybody.
//!
//! The interface: <https://nsq.io/components/nsqd.html#get-stats>.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;

use super::discovery::Answer;
use crate::config::Endpoint;
use crate::fetch::{self, FetchError};

/// What every nsqd is asked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) topic: String,
    pub(super) channel: String,
    /// How this gateway's own consumers call themselves.
    pub(super) client_id: String,
    pub(super) within: Duration,
}

/// What an nsqd said.
#[derive(Debug)]
pub(super) struct Said {
    /// What time it is there; `None` if it does not say.
    pub(super) date: Option<SystemTime>,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    /// Consumers of the channel that are not this gateway's.
    pub(super) others: usize,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StatsError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("the answer is not nsqd's JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it does not know the channel: it is another nsqd, or none")]
    Stranger,
}

/// The part of `/stats` that is read.
#[derive(Deserialize)]
struct Stats {
    topics: Vec<Topic>,
}

#[derive(Deserialize)]
struct Topic {
    #[serde(rename = "topic_name")]
    name: String,
    channels: Vec<Channel>,
}

#[derive(Deserialize)]
struct Channel {
    #[serde(rename = "channel_name")]
    name: String,
    #[serde(default)]
    client_count: usize,
    /// `null` where they were not asked for.
    clients: Option<Vec<Client>>,
}

#[derive(Deserialize)]
struct Client {
    #[serde(default)]
    client_id: String,
}

impl Question {
    /// Asks the HTTP side of an nsqd.
    pub(super) async fn ask(&self, http: &Endpoint) -> Result<Said, StatsError> {
        let http = http.to_string();
        let asked = Instant::now();
        let answer = self.get(&http, false, self.within).await?;
        let answered = Instant::now();
        let mut channel = self.channel(answer.body())?;
        if channel.client_count > 1 {
            // Only now: the list has every publisher, too. Where that is too long to be read, the count must do.
            let rest = self.within.saturating_sub(asked.elapsed());
            if let Ok(listed) = self.get(&http, true, rest).await {
                channel = self.channel(listed.body())?;
            }
        }
        Ok(Said { date: date(&answer), asked, answered, others: self.others(&channel) })
    }

    async fn get(&self, http: &str, clients: bool, within: Duration) -> Result<Response<Bytes>, StatsError> {
        // `#` begins a fragment in a URL; nothing else that a name may hold has a meaning there.
        let [topic, channel] = [&self.topic, &self.channel].map(|name| name.replace('#', "%23"));
        let path = format!(
            "/stats?format=json&topic={topic}&channel={channel}&include_clients={clients}&include_mem=false"
        );
        let answer = fetch::get(http, &path, within).await?;
        if answer.status() == StatusCode::OK { Ok(answer) } else { Err(StatsError::Status(answer.status())) }
    }

    fn channel(&self, body: &[u8]) -> Result<Channel, StatsError> {
        let (Answer::Plain(stats) | Answer::Wrapped { data: stats }) =
            serde_json::from_slice::<Answer<Stats>>(body)?;
        let ours = stats.topics.into_iter().find(|topic| topic.name == self.topic);
        let mut channels = ours.map(|topic| topic.channels).unwrap_or_default().into_iter();
        channels.find(|channel| channel.name == self.channel).ok_or(StatsError::Stranger)
    }

    /// An nsqd that is known by two names is read twice by the same gateway: only others' consumers count.
    fn others(&self, channel: &Channel) -> usize {
        match &channel.clients {
            Some(clients) => clients.iter().filter(|client| client.client_id != self.client_id).count(),
            None => channel.client_count.saturating_sub(1),
        }
    }
}

fn date(answer: &Response<Bytes>) -> Option<SystemTime> {
    httpdate::parse_http_date(answer.headers().get(header::DATE)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question() -> Question {
        Question {
            topic: "t".to_owned(),
            channel: "c#ephemeral".to_owned(),
            client_id: "we".to_owned(),
            within: Duration::from_secs(1),
        }
    }

    fn others(json: &str) -> Result<usize, String> {
        let question = question();
        let channel = question.channel(json.as_bytes()).map_err(|error| error.to_string())?;
        Ok(question.others(&channel))
    }

    #[test]
    fn only_others_consumers_are_counted() {
        let answer = |channel: &str| {
            format!(
                r#"{{"version":"1.3.0","topics":[{{"topic_name":"u","channels":[]}},
                    {{"topic_name":"t","channels":[{{"channel_name":"c#ephemeral",{channel}}}]}}],"producers":null}}"#
            )
        };
        assert_eq!(others(&answer(r#""client_count":1,"clients":null"#)), Ok(0));
        assert_eq!(others(&answer(r#""client_count":3"#)), Ok(2));
        let listed = r#""client_count":3,"clients":[{"client_id":"we"},{"client_id":"they","x":1},{"client_id":"we"}]"#;
        assert_eq!(others(&answer(listed)), Ok(1));
        // Before NSQ 1.0.
        let old = answer(r#""clients":[{"client_id":"we"},{"name":"a","client_id":"they"}]"#);
        assert_eq!(others(&format!(r#"{{"status_code":200,"data":{old}}}"#)), Ok(1));
    }

    #[test]
    fn what_is_not_the_nsqd_is_a_stranger() {
        for stranger in [
            r#"{"topics":[]}"#,
            r#"{"topics":[{"topic_name":"t","channels":[]}]}"#,
            r#"{"topics":[{"topic_name":"u","channels":[{"channel_name":"c#ephemeral","clients":null}]}]}"#,
            "{}",
            "[]",
            "",
            "<html>",
        ] {
            assert!(others(stranger).is_err(), "{stranger}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(body in "(?s).{0,200}", name in ".{0,20}", count: i64, date in ".{0,40}") {
            let _ = others(&body);
            let json = serde_json::json!({"topics": [{"topic_name": "t", "channels": [
                {"channel_name": name, "client_count": count, "clients": [{"client_id": count}]},
            ]}]});
            let _ = others(&json.to_string());
            if let Ok(answer) = Response::builder().header(header::DATE, date).body(Bytes::new()) {
                let _ = super::date(&answer);
            }
        }
    }
}
