//! What the timings of a config mean for who lives by them, and where they work against each other. Pure.

use std::time::Duration;

use humantime::format_duration;

use super::{Config, Fault};
use crate::addr::Networks;

/// For so long nsqd holds a message back, in the hope of others to send with it, from a consumer that asks for nothing
/// else: its `output_buffer_timeout`.
const HELD_BACK: Duration = Duration::from_millis(250);

/// After so long without a request common servers close a connection: Node, Apache, uvicorn.
const SERVERS_KEEP: Duration = Duration::from_secs(5);

/// Servers of gRPC close a connection that asks for signs of life more often.
const GRPC_PING: Duration = Duration::from_secs(300);

impl Config {
    /// What follows from the timings, a sentence each.
    pub fn consequences(&self) -> Vec<String> {
        let (registry, timeouts) = (&self.registry, &self.timeouts);
        let (probe, ejection) = (&registry.probe, &registry.ejection);
        let mut sentences = vec![
            format!(
                "A dataserver that refuses connections gets no more requests at once, one that falls silent after {}.",
                format_duration(registry.ttl)
            ),
            format!(
                "One that has died is out of the set after {} at the latest.",
                format_duration(registry.ttl.saturating_add(registry.sweep_interval))
            ),
            self.what_may_be_lost(),
            format!("An nsqd that hangs is noticed after {}.", format_duration(self.nsq.silence_timeout)),
            format!(
                "While no heartbeats can be heard, nobody is out for being silent: who dies fails a probe, gets no more \
                 requests after {} at the latest, and is out of the set {} later.",
                format_duration(probe.interval.saturating_add(probe.timeout)),
                format_duration(probe.give_up)
            ),
        ];
        if ejection.failures > 0 {
            sentences.push(format!(
                "One that fails {} requests in a row gets none for {}, then twice as long each time, up to {}; that may \
                 happen to {}% of the set at a time.",
                ejection.failures,
                format_duration(ejection.duration.min(ejection.max_duration)),
                format_duration(ejection.max_duration),
                ejection.percent
            ));
        }
        sentences.push(format!(
            "A dataserver that is told to stop serves on for {}, so that gateways hear of it. What is under way when it \
             or a gateway is told to stop has {} to end.",
            format_duration(timeouts.leave.min(timeouts.drain)),
            format_duration(timeouts.drain)
        ));
        if !self.nsq.heartbeat_key_file.is_empty() {
            sentences.push(format!(
                "A signed heartbeat is taken once, and up to {} before or after its time.",
                format_duration(self.nsq.clock_tolerance)
            ));
        }
        sentences
    }

    fn what_may_be_lost(&self) -> String {
        let (ttl, interval) = (self.registry.ttl, self.common.heart_beat_time);
        let beats = u32::try_from(ttl.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u32::MAX);
        let late = ttl.saturating_sub(interval.saturating_mul(beats));
        let next = if late.is_zero() {
            "must be in time".to_owned()
        } else {
            format!("may be {} late", format_duration(late))
        };
        match beats {
            0 => "Every dataserver is out of the set between two of its heartbeats.".to_owned(),
            1 => format!("No heartbeat may be lost, and each {next}."),
            2 => format!("1 heartbeat in a row may be lost; the next {next}."),
            _ => format!("{} heartbeats in a row may be lost; the next {next}.", beats - 1),
        }
    }

    /// What makes no sense, though it can be done: the key, and what is wrong about it.
    pub fn warnings(&self) -> Vec<Fault> {
        let Self { common, registry, nsq, timeouts, .. } = self;
        let (ttl, interval) = (registry.ttl, common.heart_beat_time);
        let (probe, ejection) = (&registry.probe, &registry.ejection);
        let mut warnings = Warnings(Vec::new());

        let two_beats = ("two common.heart_beat_time", 2 * interval);
        let or_less = "one heartbeat that is lost evicts its dataserver";
        warnings.if_less(("registry.ttl", ttl), two_beats, or_less);
        let sweep = ("registry.sweep_interval", registry.sweep_interval);
        warnings.if_more(sweep, ("registry.ttl", ttl), "who has died stays listed for long");
        if registry.allow == Some(Networks::default()) {
            warnings.add("registry.allow", "lists no network: every dataserver is refused".to_owned());
        }

        let or_later =
            "while heartbeats cannot be heard, who dies is found out later than by its silence otherwise";
        warnings.if_more(("registry.probe.interval", probe.interval), ("registry.ttl", ttl), or_later);
        warnings.if_more(("registry.probe.timeout", probe.timeout), ("registry.ttl", ttl), or_later);
        let again =
            ("another registry.probe.interval and timeout", probe.interval.saturating_add(probe.timeout));
        warnings.if_less(("registry.probe.give_up", probe.give_up), again, "one failed probe evicts");
        if ejection.failures > 0 {
            let longest = ("registry.ejection.max_duration", ejection.max_duration);
            let first = ("registry.ejection.duration", ejection.duration);
            warnings.if_more(first, longest, "no ejection lasts so long");
            if ejection.percent == 0 {
                warnings.add("registry.ejection.percent", "0: nobody is ever ejected".to_owned());
            }
        }

        let hang = ("nsq.silence_timeout", nsq.silence_timeout);
        let or_expired = "when an nsqd hangs, dataservers are out of the set before it is noticed";
        warnings.if_more(hang, ("registry.ttl", ttl), or_expired);
        let try_first = ("nsq.connect_timeout", nsq.connect_timeout);
        let to_spare =
            ("what registry.ttl leaves after common.heart_beat_time", ttl.saturating_sub(interval));
        warnings.if_more(
            try_first,
            to_spare,
            "a heartbeat that is offered to an nsqd that hangs comes too late",
        );
        if !common.nsqlookupd.is_empty() {
            let lookup = ("nsq.lookup_interval", nsq.lookup_interval);
            let or_unheard = "what is published to a new nsqd is not heard for longer than one may be silent";
            warnings.if_more(lookup, ("registry.ttl", ttl), or_unheard);
        }
        if !nsq.heartbeat_key_file.is_empty() {
            let tolerance = ("nsq.clock_tolerance", nsq.clock_tolerance);
            let beat = ("common.heart_beat_time", interval);
            warnings.if_less(
                tolerance,
                beat,
                "a heartbeat that had to wait is refused though it tells something",
            );
        }

        let connect = ("timeouts.connect", timeouts.connect);
        let head = ("timeouts.response_head", timeouts.response_head);
        warnings.if_less(
            head,
            connect,
            "a dataserver has less time for an answer than for taking the connection",
        );
        let keeps = ("what common servers keep", SERVERS_KEEP);
        let or_met = "a request may meet a connection that its dataserver is just closing";
        warnings.if_not_less(("timeouts.pool_idle", timeouts.pool_idle), keeps, or_met);
        let grpc = ("what servers of gRPC allow", GRPC_PING);
        let or_closed = "they close the connection";
        warnings.if_less(("timeouts.upstream_ping", timeouts.upstream_ping), grpc, or_closed);
        let leave = ("timeouts.leave", timeouts.leave);
        let held = ("twice what nsqd may hold a message back", 2 * HELD_BACK);
        warnings.if_less(leave, held, "gateways may not hear in time that a dataserver stops");
        let drain = ("timeouts.drain", timeouts.drain);
        warnings.if_not_less(leave, drain, "a dataserver that stops cuts off its last requests");
        warnings.0
    }
}

/// A key or something else, and how long it is.
type Length<'a> = (&'a str, Duration);

struct Warnings(Vec<Fault>);

impl Warnings {
    fn if_more(&mut self, (key, this): Length<'_>, (than, other): Length<'_>, why: &str) {
        if this > other {
            self.compared(key, this, "more than", than, other, why);
        }
    }

    fn if_not_less(&mut self, (key, this): Length<'_>, (than, other): Length<'_>, why: &str) {
        if this >= other {
            self.compared(key, this, "not less than", than, other, why);
        }
    }

    fn if_less(&mut self, (key, this): Length<'_>, (than, other): Length<'_>, why: &str) {
        if this < other {
            self.compared(key, this, "less than", than, other, why);
        }
    }

    fn compared(&mut self, key: &str, this: Duration, how: &str, than: &str, other: Duration, why: &str) {
        let (this, other) = (format_duration(this), format_duration(other));
        self.add(key, format!("{this} is {how} {than} ({other}): {why}"));
    }

    fn add(&mut self, key: &str, message: String) {
        self.0.push(Fault::new(key, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> Config {
        yaml.parse().unwrap()
    }

    fn warnings(yaml: &str) -> Vec<String> {
        config(yaml).warnings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_and_the_go_systems_timings_make_sense() {
        assert_eq!(warnings(""), Vec::<String>::new());
    }

    #[test]
    fn what_follows_is_said_in_figures() {
        assert_eq!(
            config("").consequences(),
            [
                "A dataserver that refuses connections gets no more requests at once, one that falls silent after 10s.",
                "One that has died is out of the set after 12s at the latest.",
                "1 heartbeat in a row may be lost; the next must be in time.",
                "An nsqd that hangs is noticed after 5s.",
                "While no heartbeats can be heard, nobody is out for being silent: who dies fails a probe, gets no more \
                 requests after 2s at the latest, and is out of the set 1m later.",
                "One that fails 5 requests in a row gets none for 10s, then twice as long each time, up to 5m; that may \
                 happen to 50% of the set at a time.",
                "A dataserver that is told to stop serves on for 1s, so that gateways hear of it. What is under way when it \
                 or a gateway is told to stop has 30s to end.",
            ]
        );
        let changed = config(
            "registry: {ttl: 2500ms, ejection: {failures: 0}}
nsq: {heartbeat_key_file: key}
timeouts: {leave: 5s, drain: 3s}",
        );
        let said = changed.consequences();
        assert!(said.contains(
            &"A signed heartbeat is taken once, and up to 1m before or after its time.".to_owned()
        ));
        assert!(said.iter().any(|said| said.contains("serves on for 3s")));
        assert!(!said.iter().any(|said| said.contains("fails 0 requests")));
    }

    #[test]
    fn heartbeats_may_be_lost_as_long_as_the_next_comes_within_the_ttl() {
        for (ttl, beat, expected) in [
            ("10s", 5, "1 heartbeat in a row may be lost; the next must be in time."),
            ("12s", 5, "1 heartbeat in a row may be lost; the next may be 2s late."),
            ("16s", 5, "2 heartbeats in a row may be lost; the next may be 1s late."),
            ("8s", 5, "No heartbeat may be lost, and each may be 3s late."),
            ("5s", 5, "No heartbeat may be lost, and each must be in time."),
            ("4s", 5, "Every dataserver is out of the set between two of its heartbeats."),
            ("1h", 1, "3599 heartbeats in a row may be lost; the next must be in time."),
        ] {
            let config = config(&format!("registry: {{ttl: {ttl}}}\ncommon: {{heart_beat_time: {beat}}}"));
            assert_eq!(config.what_may_be_lost(), expected, "{ttl} {beat}");
        }
    }

    #[test]
    fn nonsense_is_named_with_its_key() {
        let slow = "registry: {ttl: 1h}\nnsq: {heartbeat_key_file: key, clock_tolerance: 5s}";
        for (yaml, expected) in [
            (
                "registry: {ttl: 9s}",
                "registry.ttl: 9s is less than two common.heart_beat_time (10s): one heartbeat that is lost evicts its dataserver",
            ),
            (
                "registry: {sweep_interval: 11s}",
                "registry.sweep_interval: 11s is more than registry.ttl (10s): who has died stays listed for long",
            ),
            ("registry: {allow: []}", "registry.allow: lists no network: every dataserver is refused"),
            (
                "registry: {probe: {interval: 11s}}",
                "registry.probe.interval: 11s is more than registry.ttl (10s): while heartbeats cannot be heard, who dies is found out later than by its silence otherwise",
            ),
            (
                "registry: {probe: {timeout: 11s}}",
                "registry.probe.timeout: 11s is more than registry.ttl (10s): while heartbeats cannot be heard, who dies is found out later than by its silence otherwise",
            ),
            (
                "registry: {probe: {give_up: 1s}}",
                "registry.probe.give_up: 1s is less than another registry.probe.interval and timeout (2s): one failed probe evicts",
            ),
            (
                "registry: {ejection: {duration: 10m}}",
                "registry.ejection.duration: 10m is more than registry.ejection.max_duration (5m): no ejection lasts so long",
            ),
            ("registry: {ejection: {percent: 0}}", "registry.ejection.percent: 0: nobody is ever ejected"),
            (
                "nsq: {silence_timeout: 11s}",
                "nsq.silence_timeout: 11s is more than registry.ttl (10s): when an nsqd hangs, dataservers are out of the set before it is noticed",
            ),
            (
                "nsq: {connect_timeout: 6s}",
                "nsq.connect_timeout: 6s is more than what registry.ttl leaves after common.heart_beat_time (5s): a heartbeat that is offered to an nsqd that hangs comes too late",
            ),
            (
                "common: {nsqlookupd: {addr: a}}\nnsq: {lookup_interval: 11s}",
                "nsq.lookup_interval: 11s is more than registry.ttl (10s): what is published to a new nsqd is not heard for longer than one may be silent",
            ),
            (
                &format!("common: {{heart_beat_time: 6}}\n{slow}"),
                "nsq.clock_tolerance: 5s is less than common.heart_beat_time (6s): a heartbeat that had to wait is refused though it tells something",
            ),
            (
                "timeouts: {response_head: 500ms}",
                "timeouts.response_head: 500ms is less than timeouts.connect (1s): a dataserver has less time for an answer than for taking the connection",
            ),
            (
                "timeouts: {pool_idle: 5s}",
                "timeouts.pool_idle: 5s is not less than what common servers keep (5s): a request may meet a connection that its dataserver is just closing",
            ),
            (
                "timeouts: {upstream_ping: 1m}",
                "timeouts.upstream_ping: 1m is less than what servers of gRPC allow (5m): they close the connection",
            ),
            (
                "timeouts: {leave: 100ms}",
                "timeouts.leave: 100ms is less than twice what nsqd may hold a message back (500ms): gateways may not hear in time that a dataserver stops",
            ),
            (
                "timeouts: {leave: 1s, drain: 1s}",
                "timeouts.leave: 1s is not less than timeouts.drain (1s): a dataserver that stops cuts off its last requests",
            ),
        ] {
            assert_eq!(warnings(yaml), [expected], "{yaml}");
        }
    }

    #[test]
    fn what_is_not_used_is_not_complained_about() {
        for yaml in [
            "registry: {ejection: {failures: 0, duration: 10m, percent: 0}}",
            "nsq: {lookup_interval: 1m}",
            "registry: {ttl: 1h}\ncommon: {heart_beat_time: 600}\nnsq: {clock_tolerance: 1s}",
        ] {
            assert_eq!(warnings(yaml), Vec::<String>::new(), "{yaml}");
        }
    }
}
