//! What failures and probes do to a dataserver, in whatever order they come.

use super::*;

/// So many that are known, and picked from.
fn known(registry: &Registry, count: usize, now: Instant) -> Vec<Arc<Entry>> {
    let entries = (0..count).map(|n| {
        registry.hear(&addr(n), now, now);
        registry.entry(&addr(n)).unwrap()
    });
    let entries = entries.collect();
    registry.publish();
    entries
}

fn fail(entry: &Entry, failure: Failure, times: usize) {
    for _ in 0..times {
        entry.failed(failure, false, Instant::now());
    }
}

#[test]
fn a_probe_of_one_that_has_left_settles_nothing() {
    let (registry, now) = (registry(), Instant::now());
    let entries = known(&registry, 2, now);
    fail(&entries[0], Failure::HeadTimeout, 5);
    assert_eq!(entries[0].state(), State::Ejected);
    registry.sweep(now + 2 * TTL, Duration::ZERO);
    let events = registry.events(&addr(0)).unwrap().len();
    assert_eq!(entries[0].probed(Ok(()), now + 2 * TTL), Probed::Unchanged);
    assert_eq!(registry.events(&addr(0)).unwrap().len(), events);
    // Nobody counts as ejected that is not there: another one may be.
    let entries = known(&registry, 2, now + 2 * TTL);
    fail(&entries[1], Failure::HeadTimeout, 5);
    assert_eq!(entries[1].state(), State::Ejected);
}

#[test]
fn a_probe_that_was_under_way_does_not_end_an_ejection() {
    let (registry, now) = (registry(), Instant::now());
    let entries = known(&registry, 2, now);
    fail(&entries[0], Failure::HeadTimeout, 5);
    assert_eq!(entries[0].probed(Ok(()), now + SECOND), Probed::Unchanged);
    assert_eq!(entries[0].state(), State::Ejected);
    assert_eq!(entries[0].probed(Ok(()), now + 11 * SECOND), Probed::Back);
}

#[test]
fn one_that_could_not_be_probed_is_not_asked_again_at_once() {
    let (registry, now) = (registry(), Instant::now());
    let entries = known(&registry, 2, now);
    fail(&entries[0], Failure::HeadTimeout, 5);
    let over = now + 20 * SECOND;
    entries[0].not_probed(over);
    assert!(entries[0].probe_due(SECOND).unwrap() > over);
}

#[test]
fn a_crowd_that_is_refused_makes_it_suspect_and_no_worse() {
    let (registry, now) = (registry(), Instant::now());
    let one = &known(&registry, 2, now)[0];
    fail(one, Failure::Connect, 20);
    assert_eq!(one.state(), State::Suspect);
    assert_eq!(one.probed(Err("refused".to_owned()), now), Probed::Out);
    // It has started again, and is as good as new.
    assert_eq!(one.probed(Ok(()), now), Probed::Back);
    fail(one, Failure::HeadTimeout, 4);
    assert_eq!(one.state(), State::Live);
}

#[test]
fn faults_6_one_whose_resets_overtake_its_handshakes_breaks_connections_too() {
    let (registry, now) = (registry(), Instant::now());
    let one = &known(&registry, 2, now)[0];
    one.failed(Failure::to_connect(&std::io::ErrorKind::ConnectionReset.into()), false, now);
    assert!(one.breaks_connections());
}

#[test]
fn faults_6_one_that_fails_again_after_a_probe_is_ejected_at_once() {
    let (registry, now) = (registry(), Instant::now());
    let one = &known(&registry, 2, now)[0];
    one.failed(Failure::Closed, false, now);
    assert!(one.breaks_connections());
    assert_eq!(one.probed(Ok(()), now + SECOND), Probed::Back);
    // What it was given before the probe says nothing against that.
    one.failed(Failure::Closed, false, now);
    assert_eq!((one.state(), one.probed(Ok(()), now + SECOND)), (State::Suspect, Probed::Back));
    one.failed(Failure::Closed, false, now + 2 * SECOND);
    assert_eq!(one.state(), State::Ejected);
}

#[test]
fn one_that_has_answered_since_its_probe_is_only_doubted() {
    let (registry, now) = (registry(), Instant::now());
    let one = &known(&registry, 2, now)[0];
    for _ in 0..20 {
        one.failed(Failure::Closed, false, now);
        assert_eq!(one.state(), State::Suspect);
        assert_eq!(one.probed(Ok(()), now), Probed::Back);
        one.answered(200);
    }
}

#[test]
fn nobody_is_ejected_if_it_is_said_so_whatever_probes_say() {
    let never = Ejection { failures: 0, ..settings().ejection };
    let (registry, now) = (Registry::new(Settings { ejection: never, ..settings() }), Instant::now());
    let one = &known(&registry, 2, now)[0];
    for _ in 0..20 {
        one.failed(Failure::Closed, false, now);
        assert_eq!((one.state(), one.probed(Ok(()), now)), (State::Suspect, Probed::Back));
    }
}

#[test]
fn faults_19_a_flood_does_not_make_room_for_more_ejections() {
    let registry = Registry::new(Settings { trusted_joins: 4, ..settings() });
    let now = Instant::now();
    let entries = known(&registry, 100, now);
    for entry in &entries[..4] {
        fail(entry, Failure::HeadTimeout, 5);
    }
    assert_eq!(registry.states(now), [2, 96, 0, 2], "half of those that get requests");
}

#[test]
fn a_goodbye_takes_only_the_process_that_said_it() {
    let (registry, addr, now) = (registry(), addr(1), Instant::now() + TTL);
    let (old, new) = (incarnation("a", 7), incarnation("b", 1));
    registry.record(&Beat { incarnation: Some(&incarnation("a", 1)), ..beat(&addr, now - SECOND) }, now);
    let goodbye = Beat { phase: Phase::Down, incarnation: Some(&old), ..beat(&addr, now) };
    let heard = registry.entry(&addr).unwrap().hear(&goodbye, registry.inner.shared.clock.running(now), now);
    // By another nsqd, between hearing it and acting on it.
    registry.record(&Beat { incarnation: Some(&new), ..beat(&addr, now) }, now);
    registry.recorded(heard, &goodbye, now);
    assert_eq!(registry.get(&addr, now).unwrap().process.unwrap().as_str(), "b");
}

#[test]
fn faults_23_a_connection_that_the_gateway_had_no_room_for_is_nobodys_fault() {
    let (registry, now) = (registry(), Instant::now());
    let one = &known(&registry, 2, now)[0];
    // EMFILE, ENFILE, EADDRNOTAVAIL
    for ours in [24, 23, 99] {
        let failure = Failure::to_connect(&std::io::Error::from_raw_os_error(ours));
        assert_eq!(failure, Failure::NoSocket);
        fail(one, failure, 10);
        assert_eq!(one.state(), State::Live);
    }
    // ECONNREFUSED, EHOSTUNREACH
    for theirs in [111, 113] {
        assert_eq!(Failure::to_connect(&std::io::Error::from_raw_os_error(theirs)), Failure::Connect);
    }
}

#[test]
fn one_that_refuses_is_doubted_by_all_until_a_probe_settles_it() {
    let (registry, now) = (registry(), Instant::now());
    registry.hear(&addr(1), now, now);
    registry.hear(&addr(2), now, now);
    registry.publish();
    let mut reader = registry.reader();
    let one = registry.entry(&addr(1)).unwrap();
    one.failed(Failure::Closed, true, now);
    assert_eq!(one.state(), State::Live, "what was kept may have been closed");
    one.failed(Failure::Connect, false, now);
    // At once, with the snapshot from before.
    let two = addr(2);
    for _ in 0..100 {
        assert_eq!(reader.pick(now, &mut SmallRng::from_os_rng(), &[]).unwrap().addr(), &two);
    }
    assert_eq!(registry.take_doubtful().len(), 1);
    assert_eq!(one.probed(Err("refused".to_owned()), now), Probed::Out);
    registry.entry(&two).unwrap().failed(Failure::Connect, false, now);
    assert_eq!(picked(&registry, now).unwrap().addr(), &two, "doubted, and better than nobody");
    registry.entry(&two).unwrap().probed(Err("refused".to_owned()), now);
    assert!(picked(&registry, now).is_none(), "known to be dead");
    assert_eq!(one.probed(Ok(()), now), Probed::Back);
    assert_eq!(picked(&registry, now).unwrap().addr(), &addr(1));
}

#[test]
fn one_that_fails_all_it_gets_is_ejected_but_never_most_of_them() {
    let (registry, now) = (registry(), Instant::now());
    let entries: Vec<_> = (0..4)
        .map(|n| {
            registry.hear(&addr(n), now, now);
            registry.entry(&addr(n)).unwrap()
        })
        .collect();
    registry.publish();
    for entry in &entries {
        for _ in 0..4 {
            entry.failed(Failure::HeadTimeout, false, now);
        }
        assert_eq!(entry.state(), State::Live);
        entry.answered(200);
        for _ in 0..5 {
            entry.failed(Failure::HeadTimeout, false, now);
        }
    }
    assert_eq!(registry.states(now), [2, 0, 0, 2]);
    let due = entries[0].probe_due(SECOND).unwrap();
    assert!(due > now + 9 * SECOND && due < now + 11 * SECOND, "{:?}", due - now);
    assert_eq!(entries[0].probed(Ok(()), now + 11 * SECOND), Probed::Back);
    for _ in 0..5 {
        entries[0].failed(Failure::Protocol, false, now);
    }
    let due = entries[0].probe_due(SECOND).unwrap();
    assert!(due > now + 19 * SECOND, "twice as long: {:?}", due - now);
}

#[test]
fn an_answered_5xx_is_no_failure_unless_it_is_said_so() {
    let ejection = Ejection { answered_5xx: true, ..settings().ejection };
    for (registry, state) in
        [(registry(), State::Live), (Registry::new(Settings { ejection, ..settings() }), State::Ejected)]
    {
        let now = Instant::now();
        registry.hear(&addr(1), now, now);
        registry.hear(&addr(2), now, now);
        registry.publish();
        let entry = registry.entry(&addr(1)).unwrap();
        (0..5).for_each(|_| entry.answered(503));
        assert_eq!(entry.state(), state);
    }
}

#[test]
fn a_crowd_of_newcomers_has_to_pass_a_probe_and_comes_no_faster_than_it_may() {
    let registry = Registry::new(Settings { join_rate: 50, trusted_joins: 3, ..settings() });
    let now = Instant::now();
    let joined = (0..100).filter(|n| registry.hear(&addr(*n), now, now) == Recorded::Joined).count();
    assert_eq!(joined, 50);
    assert_eq!(registry.states(now), [3, 47, 0, 0]);
    assert_eq!(registry.take_doubtful().len(), 47);
    let newcomer = registry.entry(&addr(10)).unwrap();
    assert_eq!(newcomer.probed(Err("refused".to_owned()), now), Probed::Unchanged);
    assert_eq!(newcomer.probe_due(SECOND), None, "nobody asks again who was never there");
    registry.hear(&addr(10), now, now);
    assert_eq!(newcomer.probe_due(SECOND), Some(now + SECOND), "until it speaks again");
    assert_eq!(newcomer.probed(Ok(()), now), Probed::Back);
}
