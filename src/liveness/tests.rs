use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::metrics::NsqdLink;
use crate::presence::Phase;
use crate::protocol::Protocol;
use crate::registry::{Beat, Frozen, Recorded, Settings};

const TTL: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A live set of which a test says what time it is.
struct Set {
    liveness: Liveness,
    registry: Registry,
    nsqd: NsqdLink,
    now: Instant,
}

impl Set {
    fn new() -> Self {
        let registry = Registry::new(Settings::default());
        let metrics = Metrics::new(0, &[], &["expired", "probe_failed"]).unwrap();
        let nsqd = metrics.nsqd("nsqd:4150");
        nsqd.set_connected(true);
        let config = config::Config::default().into();
        let liveness = Liveness::new(registry.clone(), metrics, config, Dialable::default());
        let mut set = Self { liveness, registry, nsqd, now: Instant::now() };
        set.liveness.tick(set.now);
        set
    }

    /// Heartbeats that were sent `age` ago.
    fn hear(&self, dataservers: std::ops::Range<u16>, age: Duration) {
        for n in dataservers {
            let addr = format!("10.0.0.1:{}", n + 1).parse().unwrap();
            let (protocol, phase, sent) = (Protocol::Http1, Phase::Up, self.now - age);
            let beat = Beat { addr: &addr, protocol, phase, incarnation: None, sent, nsqd: "nsqd:4150" };
            assert!(matches!(self.registry.record(&beat, self.now), Recorded::Joined | Recorded::Refreshed));
        }
        self.registry.publish();
    }

    /// Lets time pass, with ticks as they should be.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = until.min(self.now + self.registry.tick_allowance() / TICKS);
            self.liveness.tick(self.now);
        }
    }

    fn live(&self) -> usize {
        let live = self.registry.live(self.now);
        let picked = self.registry.reader().pick(self.now, &mut SmallRng::seed_from_u64(7), &[]).is_some();
        assert_eq!(picked, live > 0);
        live
    }
}

#[test]
fn a_set_that_falls_silent_is_frozen_before_anybody_expires_though_a_tick_be_late() {
    // Wherever the late tick falls.
    for millis in (0..700).step_by(20) {
        let mut set = Set::new();
        set.hear(0..3, Duration::ZERO);
        set.pass(9 * SECOND + (400 + millis) * MILLI);
        let allowance = set.registry.tick_allowance();
        for _ in 0..10 {
            set.now += allowance / 10;
            assert_eq!(set.live(), 3, "{millis} ms on");
        }
        set.liveness.tick(set.now);
        set.pass(SECOND);
        assert_eq!((set.live(), set.registry.frozen()), (3, Some(Frozen::Silence)));
    }
}

#[test]
fn those_who_join_late_in_their_ttl_are_seen_in_time() {
    let mut set = Set::new();
    set.pass(SECOND);
    set.hear(0..3, 9 * SECOND);
    set.pass(2 * SECOND);
    assert_eq!((set.live(), set.registry.frozen()), (3, Some(Frozen::Silence)));
}

#[test]
fn one_that_passes_a_probe_late_in_its_ttl_is_seen_in_time() {
    let mut set = Set::new();
    set.pass(5 * SECOND);
    set.hear(0..2, Duration::ZERO);
    let entries =
        ["10.0.0.1:1", "10.0.0.1:2"].map(|addr| set.registry.entry(&addr.parse().unwrap()).unwrap());
    set.pass(SECOND);
    for entry in &entries {
        entry.probed(Err("refused".to_owned()), set.now);
    }
    set.pass(6 * SECOND);
    for entry in &entries {
        entry.probed(Ok(()), set.now);
    }
    set.registry.publish();
    set.pass(4 * SECOND);
    assert_eq!((set.live(), set.registry.frozen()), (2, Some(Frozen::Silence)));
}

#[test]
fn whoever_has_expired_stays_so_when_the_set_is_frozen() {
    let mut set = Set::new();
    set.hear(0..3, Duration::ZERO);
    for _ in 0..11 {
        set.pass(SECOND);
        set.hear(1..3, Duration::ZERO);
    }
    assert_eq!(set.live(), 2);
    // Nobody has swept yet.
    set.nsqd.set_connected(false);
    set.pass(SECOND);
    assert_eq!((set.live(), set.registry.frozen()), (2, Some(Frozen::NoNsqd)));
}

#[test]
fn those_who_have_expired_are_no_part_of_a_silent_crowd() {
    let mut set = Set::new();
    set.hear(0..7, Duration::ZERO);
    // One after the other stops, and nobody sweeps.
    for gone in 0..6 {
        for _ in 0..12 {
            set.pass(SECOND);
            set.hear(gone + 1..7, Duration::ZERO);
        }
        assert_eq!((set.live(), set.registry.frozen()), (usize::from(6 - gone), None));
    }
}

#[test]
fn one_alone_is_kept_without_an_nsqd_and_has_a_ttl_to_be_heard_after() {
    let mut set = Set::new();
    set.hear(0..1, Duration::ZERO);
    set.nsqd.set_connected(false);
    set.pass(6 * TTL);
    assert_eq!((set.live(), set.registry.frozen()), (1, Some(Frozen::NoNsqd)));
    set.nsqd.set_connected(true);
    set.pass(9 * SECOND);
    assert_eq!((set.live(), set.registry.frozen()), (1, None));
    set.pass(2 * SECOND);
    assert_eq!(set.live(), 0);
}

#[test]
fn the_last_one_of_a_silent_crowd_leaves_at_the_ttl() {
    let mut set = Set::new();
    set.hear(0..2, Duration::ZERO);
    set.pass(2 * TTL);
    assert_eq!((set.live(), set.registry.frozen()), (2, Some(Frozen::Silence)));
    let dead = set.registry.entry(&"10.0.0.1:1".parse().unwrap()).unwrap();
    dead.probed(Err("refused".to_owned()), set.now);
    set.pass(61 * SECOND);
    set.liveness.sweep(set.now);
    set.registry.publish();
    set.pass(SECOND);
    assert_eq!((set.live(), set.registry.frozen()), (1, None));
    set.pass(TTL);
    assert_eq!(set.live(), 0);
}

#[test]
fn with_an_nsqd_again_and_nobody_heard_it_is_silence_that_freezes() {
    let mut set = Set::new();
    set.hear(0..3, Duration::ZERO);
    set.nsqd.set_connected(false);
    set.pass(2 * TTL);
    set.nsqd.set_connected(true);
    set.pass(2 * TTL);
    assert_eq!((set.live(), set.registry.frozen()), (3, Some(Frozen::Silence)));
    set.hear(0..2, Duration::ZERO);
    set.pass(SECOND);
    assert_eq!((set.live(), set.registry.frozen()), (3, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However late ticks and heartbeats are, within what they may be: of those who fall silent together nobody is lost.
    #[test]
    fn nobody_is_lost_when_all_fall_silent(
        count in 2u16..6,
        talks in 0u32..120,
        lates in proptest::collection::vec((1u32..=500, 0u32..8, 0u32..3_000), 120..240),
    ) {
        let mut set = Set::new();
        set.hear(0..count, Duration::ZERO);
        for (step, (late, who, age)) in (0..).zip(lates) {
            // A worker picks at any moment until the tick.
            for _ in 0..4 {
                set.now += late * MILLI / 4;
                prop_assert_eq!(set.live(), usize::from(count));
            }
            set.liveness.tick(set.now);
            if step < talks {
                let who = u16::try_from(who).unwrap() % count;
                set.hear(who..who + 1, age * MILLI);
                set.hear(0..count, Duration::ZERO);
            }
        }
    }
}
