//! IDENTIFY: what a client asks for, and what it gets.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::{Limits, millis};
use super::protocol::CommandError;

/// What is told to clients that ask for the version: nsqd's whose behaviour is kept.
pub(super) const VERSION: &str = "1.3.0-embedded";

/// What holds for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) client_id: String,
    pub(super) hostname: String,
    pub(super) user_agent: String,
    /// `None` where the client wants no heartbeats.
    pub(super) heartbeat_interval: Option<Duration>,
    pub(super) output_buffer_bytes: usize,
    pub(super) output_buffer_timeout: Duration,
    pub(super) msg_timeout: Duration,
    /// Messages of a hundred that are let through; 0 for all of them.
    pub(super) sample_rate: u8,
}

/// The request. In every number 0 and absence mean the default, -1 (where allowed) means off.
#[derive(Debug, Default, Deserialize)]
struct Request {
    client_id: Option<String>,
    hostname: Option<String>,
    user_agent: Option<String>,
    feature_negotiation: Option<bool>,
    heartbeat_interval: Option<i64>,
    output_buffer_size: Option<i64>,
    output_buffer_timeout: Option<i64>,
    sample_rate: Option<i32>,
    msg_timeout: Option<i64>,
}

/// The answer to a client that negotiates features. Durations are milliseconds.
#[allow(clippy::struct_excessive_bools, reason = "nsqd's shape, not ours")]
#[derive(Debug, Serialize)]
struct Response<'a> {
    max_rdy_count: u32,
    version: &'a str,
    max_msg_timeout: u64,
    msg_timeout: u64,
    tls_v1: bool,
    deflate: bool,
    deflate_level: u8,
    max_deflate_level: u8,
    snappy: bool,
    sample_rate: u8,
    auth_required: bool,
    output_buffer_size: usize,
    output_buffer_timeout: u64,
}

/// Characters kept of a name that a client gives itself.
const LABEL_CHARS: usize = 128;

impl Settings {
    /// What holds for a client that has not introduced itself.
    pub(super) fn new(host: &str, limits: &Limits) -> Self {
        Self {
            client_id: host.to_owned(),
            hostname: host.to_owned(),
            user_agent: String::new(),
            heartbeat_interval: Some(limits.heartbeat_interval),
            output_buffer_bytes: limits.output_buffer_bytes,
            output_buffer_timeout: limits.output_buffer_timeout,
            msg_timeout: limits.msg_timeout,
            sample_rate: 0,
        }
    }

    /// Takes over what the client asks for, and returns the answer.
    ///
    /// # Errors
    ///
    /// Fatal ones, for what is no JSON object and for values that are out of range.
    pub(super) fn identify(&mut self, body: &[u8], limits: &Limits) -> Result<Vec<u8>, CommandError> {
        let request: Option<Request> = serde_json::from_slice(body)
            .map_err(|_| bad("IDENTIFY failed to decode JSON body".to_owned()))?;
        let request = request.unwrap_or_default();

        self.client_id = label(request.client_id);
        self.hostname = label(request.hostname);
        self.user_agent = label(request.user_agent);
        match request.heartbeat_interval.unwrap_or(0) {
            0 => {}
            -1 => self.heartbeat_interval = None,
            ms => {
                let range = Duration::from_secs(1)..=limits.max_heartbeat_interval;
                let interval = millis_within(ms, &range)
                    .ok_or_else(|| bad(format!("IDENTIFY heartbeat interval ({ms}) is invalid")))?;
                self.heartbeat_interval = Some(interval);
            }
        }
        match request.output_buffer_timeout.unwrap_or(0) {
            0 => {}
            -1 => self.output_buffer_timeout = Duration::ZERO,
            ms => {
                let range = limits.min_output_buffer_timeout..=limits.max_output_buffer_timeout;
                self.output_buffer_timeout = millis_within(ms, &range)
                    .ok_or_else(|| bad(format!("IDENTIFY output buffer timeout ({ms}) is invalid")))?;
            }
        }
        match request.output_buffer_size.unwrap_or(0) {
            0 => {}
            -1 => {
                self.output_buffer_bytes = 1;
                self.output_buffer_timeout = Duration::ZERO;
            }
            size => {
                self.output_buffer_bytes = usize::try_from(size)
                    .ok()
                    .filter(|bytes| (64..=limits.max_output_buffer_bytes).contains(bytes))
                    .ok_or_else(|| bad(format!("IDENTIFY output buffer size ({size}) is invalid")))?;
            }
        }
        let rate = request.sample_rate.unwrap_or(0);
        self.sample_rate = u8::try_from(rate)
            .ok()
            .filter(|rate| *rate <= 99)
            .ok_or_else(|| bad(format!("IDENTIFY sample rate ({rate}) is invalid")))?;
        match request.msg_timeout.unwrap_or(0) {
            0 => {}
            ms => {
                let range = Duration::from_secs(1)..=limits.max_msg_timeout;
                self.msg_timeout = millis_within(ms, &range)
                    .ok_or_else(|| bad(format!("IDENTIFY msg timeout ({ms}) is invalid")))?;
            }
        }

        if request.feature_negotiation.unwrap_or(false) { self.response(limits) } else { Ok(b"OK".to_vec()) }
    }

    fn response(&self, limits: &Limits) -> Result<Vec<u8>, CommandError> {
        let response = Response {
            max_rdy_count: limits.max_rdy_count,
            version: VERSION,
            max_msg_timeout: millis(limits.max_msg_timeout),
            msg_timeout: millis(self.msg_timeout),
            tls_v1: false,
            deflate: false,
            // The levels that an nsqd tells while deflate is off.
            deflate_level: 6,
            max_deflate_level: 6,
            snappy: false,
            sample_rate: self.sample_rate,
            auth_required: false,
            output_buffer_size: self.output_buffer_bytes,
            output_buffer_timeout: millis(self.output_buffer_timeout),
        };
        serde_json::to_vec(&response)
            .map_err(|error| CommandError::fatal("E_IDENTIFY_FAILED", format!("IDENTIFY failed {error}")))
    }
}

fn bad(text: String) -> CommandError {
    CommandError::fatal("E_BAD_BODY", text)
}

fn millis_within(ms: i64, range: &std::ops::RangeInclusive<Duration>) -> Option<Duration> {
    let duration = Duration::from_millis(u64::try_from(ms).ok()?);
    range.contains(&duration).then_some(duration)
}

fn label(given: Option<String>) -> String {
    given.unwrap_or_default().chars().take(LABEL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(body: &str) -> Result<(Settings, String), CommandError> {
        let limits = Limits::default();
        let mut settings = Settings::new("127.0.0.1", &limits);
        let answer = settings.identify(body.as_bytes(), &limits)?;
        Ok((settings, String::from_utf8(answer).expect("UTF-8")))
    }

    #[test]
    fn negotiates_what_a_client_asks_for() {
        let (settings, answer) = identify(
            r#"{"client_id":"c","hostname":"h","user_agent":"u","feature_negotiation":true,
                "heartbeat_interval":1000,"output_buffer_size":64,"output_buffer_timeout":25,
                "sample_rate":99,"msg_timeout":2000,"tls_v1":true,"deflate":true,"short_id":"x"}"#,
        )
        .expect("valid");
        assert_eq!(settings.heartbeat_interval, Some(Duration::from_secs(1)));
        assert_eq!(settings.msg_timeout, Duration::from_secs(2));
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["msg_timeout"], 2000);
        assert_eq!(answer["sample_rate"], 99);
        assert_eq!(answer["output_buffer_size"], 64);
        assert_eq!(answer["tls_v1"], false);
        assert_eq!(answer["deflate"], false);
    }

    #[test]
    fn answers_ok_without_negotiation_and_keeps_the_defaults() {
        let limits = Limits::default();
        for body in ["{}", "null", r#"{"heartbeat_interval":0,"client_id":null}"#] {
            let (settings, answer) = identify(body).expect("valid");
            assert_eq!(answer, "OK");
            assert_eq!(settings.heartbeat_interval, Some(limits.heartbeat_interval));
            assert_eq!(settings.msg_timeout, limits.msg_timeout);
        }
    }

    #[test]
    fn minus_one_turns_off() {
        let (settings, _) = identify(r#"{"heartbeat_interval":-1,"output_buffer_size":-1}"#).expect("valid");
        assert_eq!(settings.heartbeat_interval, None);
        assert_eq!(settings.output_buffer_bytes, 1);
        assert_eq!(settings.output_buffer_timeout, Duration::ZERO);
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        for body in [
            "",
            "[]",
            "{",
            r#"{"heartbeat_interval":999}"#,
            r#"{"heartbeat_interval":60001}"#,
            r#"{"heartbeat_interval":-2}"#,
            r#"{"heartbeat_interval":1.5}"#,
            r#"{"msg_timeout":1}"#,
            r#"{"msg_timeout":900001}"#,
            r#"{"msg_timeout":-1}"#,
            r#"{"sample_rate":100}"#,
            r#"{"sample_rate":-1}"#,
            r#"{"output_buffer_size":63}"#,
            r#"{"output_buffer_size":65537}"#,
            r#"{"output_buffer_timeout":24}"#,
            r#"{"output_buffer_timeout":30001}"#,
            r#"{"msg_timeout":9223372036854775808}"#,
        ] {
            let error = identify(body).expect_err(body);
            assert!(error.fatal && error.code == "E_BAD_BODY", "{body}: {error:?}");
        }
    }

    #[test]
    fn a_long_label_is_cut() {
        let (settings, _) = identify(&format!(r#"{{"client_id":"{}"}}"#, "ä".repeat(500))).expect("valid");
        assert_eq!(settings.client_id, "ä".repeat(128));
    }
}
