use proptest::prelude::*;

use super::*;

const HOUR: f64 = 3600.0;

/// A gateway whose wall clock is right, and one nsqd. Times are seconds since the gateway's start.
struct World {
    clock: NsqdClock,
    /// nsqd's clock minus the true time.
    offset: f64,
}

/// 2001-09-09, when the worlds begin.
const START: Nanos = 1_000_000_000 * SECOND;

fn to_nanos(seconds: f64) -> Nanos {
    #[expect(clippy::cast_possible_truncation, reason = "tests last no centuries")]
    let nanos = (seconds * 1e9) as Nanos;
    nanos
}

impl World {
    fn new(offset: f64) -> Self {
        let wall = WallClock { start: START, started: Instant::now() };
        Self { clock: NsqdClock::new(wall, Duration::from_secs(15)), offset }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.clock.wall.started + Duration::from_secs_f64(seconds)
    }

    fn stamp(&self, published: f64) -> u64 {
        u64::try_from(START + to_nanos(published + self.offset)).unwrap()
    }

    /// The age of a message, in seconds.
    fn receive(&mut self, received: f64, published: f64) -> f64 {
        self.clock.age(self.stamp(published), 1, self.at(received)).as_secs_f64()
    }

    /// nsqd is asked what time it is; its answer says so in whole seconds.
    fn measure(&mut self, asked: f64, answered: f64) {
        let read = f64::midpoint(asked, answered) + self.offset;
        let date =
            Duration::from_secs(u64::try_from(START / SECOND + to_nanos(read).div_euclid(SECOND)).unwrap());
        self.clock.measured(SystemTime::UNIX_EPOCH + date, self.at(asked), self.at(answered));
    }

    fn offset_seen(&self, now: f64) -> f64 {
        self.clock.offset_seconds(self.at(now)).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn faults_28_the_gateways_clock_goes_on_evenly_whatever_happens_to_the_machines() {
    let wall = WallClock::start();
    let begun = wall.at(Instant::now());
    // The wall clock of the machine does not see this hour: it might as well have been set back by one.
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(wall.at(Instant::now()) - begun, 3600 * SECOND);
    assert_eq!(wall.at(wall.started), wall.start);
}

#[test]
fn a_message_from_the_future_has_no_age_and_a_hostile_stamp_does_no_harm() {
    for measured in [false, true] {
        for stamp in [0, 1, u64::MAX, u64::MAX / 2, u64::MAX / 2 + 1] {
            let mut world = World::new(0.0);
            if measured {
                world.measure(0.0, 0.01);
            }
            let now = world.at(1.0);
            world.clock.age(stamp, 1, now);
            assert!(world.clock.offset_seconds(now).is_none_or(f64::is_finite));
        }
    }
    let mut world = World::new(0.0);
    world.measure(0.0, 0.01);
    assert!(world.receive(1.0, HOUR) < 1e-9);
}

#[test]
fn without_a_measurement_a_clock_that_is_ahead_is_known_at_once_and_one_behind_when_it_has_settled() {
    let mut ahead = World::new(HOUR);
    assert!(ahead.receive(0.1, 0.0) < 0.2);
    assert!((ahead.offset_seen(0.1) - HOUR).abs() < 0.2);

    let mut behind = World::new(-HOUR);
    for second in 0..3 {
        let now = f64::from(second);
        assert!(behind.receive(now + 0.1, now) > HOUR - 1.0, "it may be a backlog");
    }
    assert!(behind.receive(3.2, 3.1) < 0.2);
    assert!((behind.offset_seen(3.2) + HOUR).abs() < 0.2);
    // One dataserver with a beat of five seconds is enough.
    let mut lone = World::new(-HOUR);
    lone.receive(0.1, 0.0);
    assert!(lone.receive(5.1, 5.0) < 0.2);
}

#[test]
fn stragglers_and_redeliveries_do_not_unsettle_a_clock() {
    for offset in [0.0, HOUR, -HOUR] {
        let mut world = World::new(offset);
        for beat in 0..10 {
            world.receive(f64::from(beat), f64::from(beat) - 0.01);
        }
        assert!((world.receive(10.0, 4.0) - 6.0).abs() < 0.1, "as old as it is");
        let redelivered = world.clock.age(world.stamp(-50.0), 2, world.at(10.0)).as_secs_f64();
        assert!((redelivered - 60.0).abs() < 0.1, "{redelivered}");
        assert!(world.receive(10.1, 10.09) < 0.1);
    }
}

#[test]
fn a_redelivery_alone_settles_nothing() {
    let mut world = World::new(-HOUR);
    for second in 0..10 {
        let stamp = world.stamp(f64::from(second));
        assert!(world.clock.age(stamp, 2, world.at(f64::from(second))).as_secs_f64() > HOUR - 1.0);
    }
}

#[test]
fn a_clock_that_is_set_while_connected_is_followed() {
    for (before, after) in [(0.0, -HOUR), (0.0, HOUR), (-HOUR, 0.0), (HOUR, -HOUR)] {
        let mut world = World::new(before);
        for poll in 0..4 {
            let now = f64::from(poll) * 5.0;
            world.measure(now, now + 0.01);
            for beat in 1..5 {
                assert!(world.receive(now + f64::from(beat), now + f64::from(beat) - 0.01) < 0.1);
            }
            if poll == 2 {
                world.offset = after;
            }
        }
        assert!((world.offset_seen(19.0) - after).abs() < 0.1, "{before} {after}");
    }
    // Without measurements it takes as long as it takes to settle.
    let mut world = World::new(0.0);
    for beat in 0..20 {
        let (now, settled) = (f64::from(beat), !(10..13).contains(&beat));
        world.offset = if beat < 10 { 0.0 } else { -HOUR };
        let age = world.receive(now, now - 0.01);
        assert_eq!(age < 0.1, settled, "{beat}: {age}");
    }
}

#[test]
fn a_clock_that_is_set_back_before_it_settled_settles_later() {
    let mut world = World::new(0.0);
    world.receive(0.1, 0.0);
    world.offset = -HOUR;
    let ages: Vec<_> = (1..10).map(|beat| world.receive(f64::from(beat), f64::from(beat) - 0.01)).collect();
    assert!(ages[..3].iter().all(|age| *age > HOUR - 1.0) && ages[7] < 0.1, "{ages:?}");
}

#[test]
fn faults_17_a_stream_that_is_read_late_and_evenly_is_old_if_the_nsqds_time_is_known() {
    let mut world = World::new(-HOUR);
    world.measure(0.0, 0.01);
    for beat in 0..14 {
        let now = f64::from(beat);
        assert!(world.receive(now, now - HOUR) > HOUR - 1.1, "{beat}");
    }
}

#[test]
fn a_clock_that_drifts_is_followed() {
    for (measured, drift) in [(true, 1e-3), (true, -1e-3), (false, 1e-3), (false, -1e-3)] {
        let mut world = World::new(0.0);
        for beat in 0..3600 {
            let now = f64::from(beat);
            world.offset = now * drift;
            if measured && beat % 5 == 0 {
                world.measure(now, now + 0.01);
            }
            let age = world.receive(now, now - 0.01);
            assert!(age < 0.1, "{drift} {measured} {beat}: {age}");
        }
    }
}

#[test]
fn a_measurement_lasts_for_a_while_and_no_longer() {
    let mut world = World::new(-HOUR);
    world.measure(0.0, 0.01);
    assert!(world.receive(14.9, 14.8) < 0.2);
    world.clock.unmeasured();
    assert!(world.receive(15.0, 14.9) > HOUR - 1.0);
    let mut world = World::new(-HOUR);
    world.measure(0.0, 0.01);
    assert!(world.receive(15.1, 15.0) > HOUR - 1.0, "it is too old");
}

/// How a backlog is drained: when its messages were published, and when they are received.
fn backlog() -> impl Strategy<Value = Vec<(f64, f64)>> {
    let (published_over, drained_in) = (0.0..2.0 * HOUR, 0.001..30.0f64);
    (60.0..2.0 * HOUR, published_over, drained_in, 2..200u16).prop_map(|(old, over, drained_in, count)| {
        (0..count)
            .map(|n| {
                let part = f64::from(n) / f64::from(count);
                (-old - over * (1.0 - part), 0.1 + drained_in * part)
            })
            .collect()
    })
}

proptest! {
    /// The promise: with nsqd's time known beforehand, the past stays dead, whatever its clock says.
    #[test]
    fn faults_17_a_backlog_is_never_taken_for_young(
        offset in -2.0 * HOUR..2.0 * HOUR, round_trip in 0.0..0.09, backlog in backlog(), live in any::<bool>(),
    ) {
        let mut world = World::new(offset);
        world.measure(0.0, round_trip);
        for (published, received) in backlog {
            if received > 5.0 {
                world.measure(received - round_trip, received);
            }
            let age = world.receive(received, published);
            prop_assert!(age > received - published - 1.1, "{age} of {}", received - published);
            if live {
                prop_assert!(world.receive(received, received - 0.02) < 1.2);
            }
        }
    }

    /// With a clock that is right, or of which nothing is known and that is not behind, no measurement is needed.
    #[test]
    fn faults_17_without_a_measurement_a_backlog_of_a_good_clock_is_not_taken_for_young(backlog in backlog()) {
        // A stream that is read a while after it was published, and just as fast, looks like a clock that is behind.
        let (first, last) = (backlog[0], backlog[backlog.len() - 1]);
        let pace = (last.0 - first.0) / (last.1 - first.1);
        prop_assume!(!(0.5..1.5).contains(&pace));
        let mut world = World::new(0.0);
        for (published, received) in backlog {
            let age = world.receive(received, published);
            prop_assert!((age - (received - published)).abs() < 0.001, "{age} of {}", received - published);
        }
    }

    /// The other promise: a wrong clock makes nobody old.
    #[test]
    fn a_live_message_is_young_whatever_the_clock_says(
        offset in -2.0 * HOUR..2.0 * HOUR, round_trip in 0.0..0.5, gaps in proptest::collection::vec(0.0..10.0, 1..50),
        delays in proptest::collection::vec(0.0..0.3, 50),
    ) {
        let mut world = World::new(offset);
        let (mut now, mut next_poll) = (round_trip, 0.0);
        for (gap, delay) in gaps.iter().zip(delays) {
            now += gap + delay;
            if now >= next_poll {
                world.measure(now - round_trip, now);
                next_poll = now + 5.0;
            }
            let age = world.receive(now, now - delay);
            prop_assert!(age < delay + 1.01 + round_trip, "{age}");
        }
    }

    #[test]
    fn any_stamps_and_dates_have_ages(
        events in proptest::collection::vec((any::<u64>(), any::<u16>(), 0u64..100, any::<bool>()), 0..100),
    ) {
        let mut world = World::new(0.0);
        let mut now = 0;
        for (number, attempts, passed, date) in events {
            now += passed;
            let at = world.clock.wall.started + Duration::from_secs(now);
            if date {
                let date = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(number));
                world.clock.measured(date.unwrap(), at, at);
            } else {
                world.clock.age(number, attempts, at);
            }
            prop_assert!(world.clock.offset_seconds(at).is_none_or(f64::is_finite));
        }
    }
}
