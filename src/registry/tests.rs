use std::collections::HashMap;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const TTL: Duration = Duration::from_secs(10);

fn addr(n: usize) -> Addr {
    format!("10.{}.{}.{}:80", n >> 16 & 255, n >> 8 & 255, n & 255).parse().unwrap()
}

fn registry() -> Registry {
    Registry::new(TTL, 100_000)
}

fn picks(registry: &Registry, now: Instant, times: usize) -> HashMap<String, usize> {
    let (mut reader, mut rng) = (registry.reader(), SmallRng::seed_from_u64(7));
    let mut seen = HashMap::new();
    for _ in 0..times {
        if let Some(entry) = reader.pick(now, &mut rng, &[]) {
            *seen.entry(entry.addr().to_string()).or_default() += 1;
        }
    }
    seen
}

#[test]
fn a_first_heartbeat_joins_and_the_next_refreshes() {
    let (registry, now) = (registry(), Instant::now());
    assert_eq!(registry.record(&addr(1), Protocol::Http1, now, now), Recorded::Joined);
    assert_eq!(registry.record(&addr(1), Protocol::Http1, now, now), Recorded::Refreshed);
    assert_eq!(registry.get(&addr(1), now).unwrap().heartbeats, 2);
}

#[test]
fn a_heartbeat_older_than_the_ttl_is_stale_and_joins_nobody() {
    let (registry, now) = (registry(), Instant::now() + TTL * 2);
    assert_eq!(
        registry.record(&addr(1), Protocol::Http1, now - TTL - Duration::from_nanos(1), now),
        Recorded::Stale
    );
    assert_eq!(registry.live(now), 0);
    assert_eq!(registry.record(&addr(1), Protocol::Http1, now - TTL, now), Recorded::Joined);
}

#[test]
fn a_delayed_heartbeat_gives_only_the_time_that_it_has_left() {
    let (registry, now) = (registry(), Instant::now() + TTL);
    registry.record(&addr(1), Protocol::Http1, now - Duration::from_secs(7), now);
    assert_eq!(registry.live(now + Duration::from_secs(3)), 1);
    assert_eq!(registry.live(now + Duration::from_millis(3001)), 0);
}

#[test]
fn a_reordered_heartbeat_takes_no_time_away() {
    let (registry, now) = (registry(), Instant::now() + TTL);
    registry.record(&addr(1), Protocol::Http1, now, now);
    registry.record(&addr(1), Protocol::Http1, now - Duration::from_secs(5), now);
    assert_eq!(registry.live(now + TTL), 1);
}

#[test]
fn an_expired_entry_is_not_picked_even_if_nobody_sweeps() {
    let (registry, now) = (registry(), Instant::now());
    registry.record(&addr(1), Protocol::Http1, now, now);
    registry.record(&addr(2), Protocol::Http1, now, now);
    registry.publish();
    registry.record(&addr(2), Protocol::Http1, now + TTL, now + TTL);
    let later = now + TTL + Duration::from_secs(1);
    assert_eq!(picks(&registry, later, 1000), HashMap::from([(addr(2).to_string(), 1000)]));
}

#[test]
fn the_last_live_one_among_thousands_of_expired_is_found() {
    let (registry, now) = (registry(), Instant::now());
    for n in 0..5000 {
        registry.record(&addr(n), Protocol::Http1, now, now);
    }
    registry.publish();
    registry.record(&addr(4321), Protocol::Http1, now + TTL, now + TTL);
    let later = now + TTL + Duration::from_secs(1);
    assert_eq!(picks(&registry, later, 100), HashMap::from([(addr(4321).to_string(), 100)]));
}

#[test]
fn the_sweep_removes_the_silent_and_says_for_how_long_they_were() {
    let (registry, now) = (registry(), Instant::now());
    registry.record(&addr(1), Protocol::Http1, now, now);
    registry.record(&addr(2), Protocol::Http1, now, now);
    registry.record(&addr(2), Protocol::Http1, now + TTL, now + TTL);
    let evicted = registry.sweep(now + TTL + Duration::from_secs(2));
    assert_eq!(evicted.len(), 1);
    assert_eq!(evicted[0].addr, addr(1));
    assert_eq!(evicted[0].silent_for, Duration::from_secs(12));
    registry.publish();
    assert_eq!(picks(&registry, now + TTL, 10).len(), 1);
}

#[test]
fn a_full_registry_keeps_those_it_has_and_takes_new_ones_when_there_is_room() {
    let (registry, now) = (Registry::new(TTL, 2), Instant::now());
    assert_eq!(registry.record(&addr(1), Protocol::Http1, now, now), Recorded::Joined);
    assert_eq!(registry.record(&addr(2), Protocol::Http1, now, now), Recorded::Joined);
    assert_eq!(registry.record(&addr(3), Protocol::Http1, now, now), Recorded::Full);
    assert_eq!(registry.record(&addr(1), Protocol::Http1, now, now), Recorded::Refreshed);
    let later = now + TTL + Duration::from_secs(1);
    registry.sweep(later);
    assert_eq!(registry.record(&addr(3), Protocol::Http1, later, later), Recorded::Joined);
}

#[test]
fn every_live_one_is_as_likely_as_another() {
    let (registry, now) = (registry(), Instant::now());
    for n in 0..10 {
        registry.record(&addr(n), Protocol::Http1, now, now);
    }
    registry.publish();
    let seen = picks(&registry, now, 100_000);
    assert_eq!(seen.len(), 10);
    // The deviation of one count is 95; eight of them is no accident.
    assert!(seen.values().all(|&count| (9_240..10_760).contains(&count)), "{seen:?}");
}

#[test]
fn one_that_was_tried_is_not_picked_again() {
    let (registry, now) = (registry(), Instant::now());
    for n in 0..3 {
        registry.record(&addr(n), Protocol::Http1, now, now);
    }
    registry.publish();
    let (mut reader, mut rng) = (registry.reader(), SmallRng::seed_from_u64(7));
    let mut tried = Vec::new();
    while let Some(entry) = reader.pick(now, &mut rng, &tried) {
        tried.push(entry.id());
    }
    tried.sort_unstable();
    assert_eq!(tried, [0, 1, 2]);
}

#[test]
fn counts_go_on_when_a_dataserver_comes_back() {
    let (registry, now) = (registry(), Instant::now());
    registry.record(&addr(1), Protocol::Http1, now, now);
    registry.publish();
    let mut reader = registry.reader();
    let shard = reader.pick(now, &mut SmallRng::seed_from_u64(7), &[]).unwrap().traffic().shard(0);
    shard.answered(200);
    let later = now + TTL * 2;
    registry.sweep(later);
    registry.record(&addr(1), Protocol::Http1, later, later);
    assert_eq!(registry.get(&addr(1), later).unwrap().totals.requests(), 1);
    shard.failed(Failure::Connect);
    assert_eq!(registry.get(&addr(1), later).unwrap().totals.failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_joins_share_few_snapshots() {
    let registry = registry();
    let publisher = tokio::spawn({
        let registry = registry.clone();
        async move { registry.publish_changes().await }
    });
    let mut published = 0;
    let mut last = registry.inner.snapshot.load_full();
    for n in 0..10_000 {
        registry.record(&addr(n), Protocol::Http1, Instant::now(), Instant::now());
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let now = registry.inner.snapshot.load_full();
        published += usize::from(!Arc::ptr_eq(&last, &now));
        last = now;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(registry.inner.snapshot.load().len(), 10_000);
    assert!((2..=200).contains(&published), "{published} snapshots");
    publisher.abort();
}

proptest! {
    /// Whatever comes in whatever order: who is picked is who was heard within the TTL.
    #[test]
    fn picks_are_live_and_nobody_live_is_missed(
        heard in proptest::collection::vec((0usize..6, 0u64..30), 0..40),
        sweeps in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let (registry, start) = (registry(), Instant::now());
        let mut now = start;
        let mut last = HashMap::new();
        for ((who, seconds), sweep) in heard.into_iter().zip(sweeps) {
            now += Duration::from_secs(seconds / 6);
            registry.record(&addr(who), Protocol::Http1, now, now);
            last.insert(who, now);
            if sweep {
                registry.sweep(now);
            }
        }
        registry.publish();
        let mut live: Vec<_> = last.iter().filter(|(_, heard)| now - **heard <= TTL).map(|(who, _)| addr(*who).to_string()).collect();
        let mut picked: Vec<_> = picks(&registry, now, 2000).into_keys().collect();
        live.sort_unstable();
        picked.sort_unstable();
        prop_assert_eq!(picked, live);
    }
}

#[test]
fn what_a_dataserver_speaks_follows_its_newest_heartbeat() {
    let registry = Registry::new(TTL, 10);
    let now = Instant::now();
    let speaks = |age: u64, protocol| {
        registry.record(&addr(1), protocol, now - Duration::from_secs(age), now);
        registry.get(&addr(1), now).unwrap().protocol
    };
    assert_eq!(speaks(5, Protocol::H2c), Protocol::H2c);
    assert_eq!(speaks(6, Protocol::Http1), Protocol::H2c, "an older one that came later");
    assert_eq!(speaks(4, Protocol::Http1), Protocol::Http1);
    assert_eq!(speaks(4, Protocol::H2c), Protocol::H2c);
}
