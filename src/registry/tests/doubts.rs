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
