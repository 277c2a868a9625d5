//! The table of faults: what goes wrong, what is promised, and what shows that the promise is kept.
//!
//! `0/N` means that of N requests that may be repeated none failed.

use std::path::Path;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::findings::Drilled;
use crate::support::{tools, trials};
use crate::{broker, chaos, crowd, dataservers, leaving, machine, network, reload, start};

/// A fault and its promise.
pub struct Row {
    pub number: usize,
    pub fault: &'static str,
    pub promise: &'static str,
    /// Nothing yet, if it is empty.
    pub shown_by: &'static [Proof],
}

/// What shows that a promise is kept.
pub enum Proof {
    Drill(Drill),
    /// A test that `cargo test` runs.
    Test(&'static str),
}

/// A fault made on purpose.
pub struct Drill {
    pub name: &'static str,
    /// It is ended after this.
    pub limit: Duration,
    /// Takes minutes.
    pub long: bool,
    pub run: fn() -> Drilled,
}

/// The drill that is this function.
macro_rules! drill {
    ($room:ident::$name:ident) => {
        drill!($room::$name, 90, false)
    };
    ($room:ident::$name:ident, long) => {
        drill!($room::$name, 300, true)
    };
    ($room:ident::$name:ident, $limit:literal, $long:literal) => {
        Proof::Drill(Drill {
            name: concat!(stringify!($room), "::", stringify!($name)),
            limit: Duration::from_secs($limit),
            long: $long,
            run: $room::$name,
        })
    };
}

const fn row(number: usize, fault: &'static str, promise: &'static str, shown_by: &'static [Proof]) -> Row {
    Row { number, fault, promise, shown_by }
}

const fn test(name: &'static str) -> Proof {
    Proof::Test(name)
}

/// How many rows there are.
const COUNT: usize = 36;

pub const ROWS: &[Row] = &[
    row(
        1,
        "a dataserver is killed",
        "0/N; no request is sent to it later than 1 s after",
        &[
            drill!(dataservers::killed_under_load),
            test("faults_1_a_dataserver_that_is_killed_under_load_fails_no_get"),
        ],
    ),
    row(
        2,
        "… in the middle of answers",
        "only those under way fail, each visibly; no truncated success",
        &[
            drill!(dataservers::killed_in_the_middle_of_answers),
            test("http_35_an_answer_that_breaks_off_is_visibly_broken"),
            test("http_35_an_http2_user_sees_a_reset_of_the_stream"),
        ],
    ),
    row(
        3,
        "… before it answers",
        "0/N; a POST arrives at most once",
        &[test("faults_3_a_dataserver_that_reads_and_closes_fails_no_get_and_sees_no_post_twice")],
    ),
    row(
        4,
        "it stops, or takes connections and hangs",
        "no answer later than the limit; ejected after the first few; out of the set at the TTL",
        &[
            drill!(dataservers::stopped),
            drill!(dataservers::accepts_and_hangs),
            test("faults_4_one_that_takes_requests_and_hangs_is_ejected_and_comes_back"),
        ],
    ),
    row(
        5,
        "nobody answers when it is connected to",
        "0/N, each later by the connect timeout at most",
        &[
            drill!(network::syn_blackhole),
            test("http_45_a_dataserver_that_does_not_take_connections_is_passed_over"),
        ],
    ),
    row(
        6,
        "it resets connections, or in the middle of answers",
        "as 1; as 2",
        &[
            drill!(network::reset_on_accept),
            test("faults_6_one_that_resets_connections_gets_no_more_requests"),
            test("faults_6_one_that_passes_probes_and_fails_requests_is_ejected"),
            test("http_35_a_reset_after_the_head_is_never_an_end"),
        ],
    ),
    row(
        7,
        "pooled connections are half-open",
        "0/N",
        &[
            drill!(network::pooled_connections_forgotten),
            drill!(network::power_lost),
            test("faults_7_a_get_on_a_kept_connection_that_is_half_open_is_sent_again"),
            test("faults_7_a_get_whose_dataserver_is_gone_before_it_answered_goes_to_another"),
            test("faults_7_an_http2_connection_that_is_half_open_costs_no_get"),
        ],
    ),
    row(
        8,
        "it closes idle connections just as they are reused",
        "0/N; no POST twice",
        &[
            drill!(dataservers::idle_connections_close_as_they_are_reused),
            test("http_47_a_kept_connection_that_was_closed_meanwhile_costs_nobody_a_request"),
        ],
    ),
    row(
        9,
        "slow first bytes, drips, stalls",
        "200 or 504 by the limit; a drip completes; a stall is aborted; memory stays flat",
        &[
            drill!(dataservers::slow_answers),
            test("http_44_an_answer_that_stalls_is_aborted"),
            test("http_46_a_dataserver_that_does_not_answer_is_504"),
        ],
    ),
    row(
        10,
        "junk, a huge head",
        "502; memory bounded",
        &[test("http_32_junk_is_502"), test("http_32_a_head_over_the_limits_is_502")],
    ),
    row(
        11,
        "every dataserver dead, or none ever seen",
        "503 at once, with Retry-After",
        &[test("faults_11_with_no_live_dataserver_503_at_once_and_when_to_come_again")],
    ),
    row(
        12,
        "nsqd is killed, for 6 TTLs",
        "0/N; the set is frozen; connected again 5 s after it is back at the latest",
        &[
            drill!(broker::killed_for_6_ttls),
            test("faults_12_without_an_nsqd_nobody_is_evicted_and_the_set_thaws"),
            test("faults_12_without_an_nsqd_the_set_is_frozen_at_once_and_thaws_when_heartbeats_flow"),
        ],
    ),
    row(
        13,
        "nsqd is stopped, or cut off without a FIN",
        "as 12; noticed within two heartbeat intervals",
        &[
            drill!(broker::stopped_for_6_ttls),
            drill!(broker::cut_off),
            test("faults_13_when_all_fall_silent_only_who_fails_its_probes_leaves"),
            test("faults_13_silence_ends_the_relay"),
        ],
    ),
    row(
        14,
        "a dataserver dies while NSQ is down",
        "out of rotation within 2 s, by the probe",
        &[
            drill!(broker::a_dataserver_dies_while_nsq_is_down),
            test("faults_14_one_that_dies_while_nsq_is_down_fails_its_probe"),
        ],
    ),
    row(
        15,
        "nsqlookupd is gone, hangs, answers junk or without end",
        "links to nsqds are kept; a poll costs 2 s and 1 MiB at most",
        &[
            drill!(broker::nsqlookupd_gone_hung_junk_endless),
            test("faults_15_a_lookupd_that_hangs_talks_junk_or_never_ends_costs_its_timeout_at_most"),
        ],
    ),
    row(
        16,
        "one nsqd of three dies, dataservers publish to a random one",
        "nobody is evicted wrongly",
        &[
            drill!(broker::one_of_three_dies),
            drill!(broker::one_of_three_is_dead_for_3_minutes, long),
            test("faults_16_one_of_two_nsqds_dies_and_nobody_is_evicted"),
        ],
    ),
    row(
        17,
        "a backlog of 100,000 old heartbeats",
        "no request goes to a dead address; the set is right after 5 s",
        &[
            drill!(broker::a_backlog_of_100_000),
            test("faults_17_old_heartbeats_revive_nobody"),
            test("faults_17_the_past_stays_dead_though_the_nsqds_clock_is_an_hour_off"),
        ],
    ),
    row(
        18,
        "hostile heartbeats",
        "refused, counted by reason, finished, never dialled",
        &[test("faults_18_hostile_heartbeats_are_refused_counted_and_finished")],
    ),
    row(
        19,
        "100,000 distinct addresses",
        "capacity holds, the real ones stay; memory (64 MiB) and metric series bounded; p99 ≤ 2 ×",
        &[
            drill!(crowd::a_flood_of_100_000_addresses),
            drill!(crowd::ten_thousand_come_and_go, 900, true),
            test("faults_19_a_request_passes_over_a_crowd_that_refuses_it"),
            test("faults_19_of_a_crowd_each_has_to_pass_a_probe_first"),
            test("faults_19_a_flood_does_not_make_room_for_more_ejections"),
        ],
    ),
    row(
        20,
        "hostile NSQ frames",
        "closed, backed off, no crash",
        &[
            test("faults_20_an_nsqd_that_sends_hostile_frames_is_backed_off_from_and_costs_nothing"),
            test("faults_20_hostile_frames_do_not_pass"),
        ],
    ),
    row(21, "a dataserver is off and on every 2 TTLs", "0/N", &[drill!(dataservers::flapping)]),
    row(
        22,
        "all dataservers are restarted, one after another",
        "0/N, of POSTs too: they say goodbye and drain",
        &[
            drill!(dataservers::rolling_restart),
            drill!(dataservers::rolling_restart_of_announced_services),
            test("faults_22_a_rolling_restart_fails_no_request"),
        ],
    ),
    row(
        23,
        "file descriptors run out",
        "no crash; who is connected is served; as before 2 s later",
        &[
            test("http_48_without_file_descriptors_it_serves_whom_it_can"),
            test("faults_23_a_connection_that_the_gateway_had_no_room_for_is_nobodys_fault"),
        ],
    ),
    row(24, "nobody scrapes /metrics for an hour", "memory stays flat", &[drill!(crowd::nobody_scrapes)]),
    row(
        25,
        "the config is broken, emptied, half-written, replaced, a symlink swapped",
        "the last good one stays, counted, logged, 0/N",
        &[
            drill!(reload::changed_in_every_way),
            drill!(reload::a_thousand_times, long),
            test("faults_25_a_broken_config_leaves_the_last_good_one"),
        ],
    ),
    row(
        26,
        "SIGTERM under load",
        "0/N; it ends before its deadline even with a user who is stuck",
        &[
            drill!(leaving::sigterm_under_load),
            drill!(leaving::sigterm_with_users_who_are_stuck),
            test("http_50_what_was_sent_before_the_signal_is_answered"),
            test("http_50_an_http2_connection_is_told_goaway"),
            test("http_50_the_deadline_holds_with_a_stream_that_is_stuck"),
            test("http_50_every_connection_that_came_into_being_is_answered"),
            test("http_50_whoever_has_asked_nothing_for_a_while_may_ask_once_more"),
        ],
    ),
    row(
        27,
        "a new gateway takes over from an old one",
        "0/N",
        &[
            drill!(leaving::taken_over_again_and_again),
            drill!(leaving::taken_over_with_users_who_are_stuck),
            test("faults_27_a_new_gateway_takes_over_and_no_request_fails"),
            test("who_comes_between_two_gateways_waits_and_is_served"),
        ],
    ),
    row(
        28,
        "the wall clock jumps an hour",
        "nobody expires, nobody is revived",
        &[
            drill!(machine::the_gateways_clock_jumps),
            drill!(machine::nsqds_clock_jumps),
            test("faults_28_the_wall_clock_is_set_and_nobody_expires_or_revives"),
        ],
    ),
    row(
        29,
        "the gateway itself is stopped",
        "no mass eviction when it wakes",
        &[
            drill!(machine::the_gateway_stands_still_for_5_s),
            drill!(machine::the_gateway_stands_still_for_60_s, long),
            test("faults_29_a_pause_does_not_count_neither_before_it_is_noticed_nor_after"),
        ],
    ),
    row(30, "the processor is starved", "no false eviction", &[drill!(machine::the_processor_is_starved)]),
    row(31, "1,000 slow users", "of the others 99.9 % are served", &[drill!(crowd::slow_users)]),
    row(
        32,
        "rapid reset",
        "the offender is closed; p99 of the others ≤ 2 ×",
        &[
            drill!(crowd::rapid_reset),
            test("http_41_rapid_reset_in_one_go"),
            test("http_41_rapid_reset_one_by_one"),
        ],
    ),
    row(
        33,
        "whoever reads the log stops",
        "requests go on",
        &[
            test("faults_33_whoever_reads_the_log_stops_and_requests_go_on"),
            test("a_log_on_a_full_disk_and_no_log_at_all_cost_no_request"),
        ],
    ),
    row(
        34,
        "two gateways, one NSQ",
        "both hold the same set",
        &[test("faults_34_two_gateways_hold_the_same_set")],
    ),
    row(
        35,
        "cold start",
        "first 200 within one heartbeat interval; /readyz tells the truth meanwhile",
        &[
            drill!(start::cold_start),
            drill!(start::start_with_a_snapshot),
            test("faults_35_the_first_200_comes_within_one_heartbeat_interval"),
        ],
    ),
    row(
        36,
        "of 1, 12, 22, 25 and 27 whatever chance brings, for a minute",
        "0/N; a POST fails only where its dataserver was killed under it",
        &[drill!(chaos::everything_at_once, long)],
    ),
];

impl Row {
    pub fn drills(&self) -> impl Iterator<Item = &'static Drill> + use<> {
        self.shown_by.iter().filter_map(|proof| match proof {
            Proof::Drill(drill) => Some(drill),
            Proof::Test(_) => None,
        })
    }
}

impl Drill {
    /// Its name with the number of its row.
    pub fn full_name(&self, row: usize) -> String {
        format!("faults_{row:02}::{}", self.name)
    }
}

pub fn trials() -> Vec<Trial> {
    trials![every_row_is_there_once, every_test_that_is_named_exists, every_drill_is_in_one_row]
}

fn every_row_is_there_once() {
    let numbers: Vec<_> = ROWS.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=COUNT).collect::<Vec<_>>());
}

fn every_test_that_is_named_exists() {
    let mut sources = String::new();
    read_all(&tools::source("src"), &mut sources);
    read_all(&tools::source("tests/gateway"), &mut sources);
    for row in ROWS {
        for proof in row.shown_by {
            if let Proof::Test(name) = proof {
                let named = |quote: char| sources.contains(&format!("{name}{quote}"));
                assert!(named('(') || named('"'), "row {}: there is no test {name}", row.number);
            }
        }
    }
}

fn every_drill_is_in_one_row() {
    let mut names: Vec<_> = ROWS.iter().flat_map(Row::drills).map(|drill| drill.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

fn read_all(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}
