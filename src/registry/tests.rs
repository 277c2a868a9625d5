mod doubts;

use std::collections::HashMap;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const TTL: Duration = Duration::from_secs(10);

fn addr(n: usize) -> Addr {
    format!("10.{}.{}.{}:80", n >> 16 & 255, n >> 8 & 255, n & 255).parse().unwrap()
}

fn settings() -> Settings {
    Settings { join_rate: 1_000_000, trusted_joins: 1_000_000, ..Settings::default() }
}

fn registry() -> Registry {
    Registry::new(settings())
}

fn beat(addr: &Addr, sent: Instant) -> Beat<'_> {
    let (protocol, phase) = (Protocol::Http1, Phase::Up);
    Beat { addr, protocol, phase, incarnation: None, sent, nsqd: "nsqd:4150" }
}

impl Registry {
    /// A plain heartbeat.
    fn hear(&self, addr: &Addr, sent: Instant, now: Instant) -> Recorded {
        self.record(&beat(addr, sent), now)
    }
}

fn live(registry: &Registry, now: Instant) -> usize {
    registry.publish();
    registry.live(now)
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
    assert_eq!(registry.hear(&addr(1), now, now), Recorded::Joined);
    assert_eq!(registry.hear(&addr(1), now, now), Recorded::Refreshed);
    assert_eq!(registry.get(&addr(1), now).unwrap().heartbeats, 2);
}

#[test]
fn a_heartbeat_older_than_the_ttl_is_stale_and_joins_nobody() {
    let (registry, now) = (registry(), Instant::now() + TTL * 2);
    assert_eq!(registry.hear(&addr(1), now - TTL - Duration::from_nanos(1), now), Recorded::Stale);
    assert_eq!(live(&registry, now), 0);
    assert_eq!(registry.hear(&addr(1), now - TTL, now), Recorded::Joined);
}

#[test]
fn a_delayed_heartbeat_gives_only_the_time_that_it_has_left() {
    let (registry, now) = (registry(), Instant::now() + TTL);
    registry.hear(&addr(1), now - Duration::from_secs(7), now);
    assert_eq!(live(&registry, now + Duration::from_secs(3)), 1);
    assert_eq!(live(&registry, now + Duration::from_millis(3001)), 0);
}

#[test]
fn a_reordered_heartbeat_takes_no_time_away() {
    let (registry, now) = (registry(), Instant::now() + TTL);
    registry.hear(&addr(1), now, now);
    registry.hear(&addr(1), now - Duration::from_secs(5), now);
    assert_eq!(live(&registry, now + TTL), 1);
}

#[test]
fn an_expired_entry_is_not_picked_even_if_nobody_sweeps() {
    let (registry, now) = (registry(), Instant::now());
    registry.hear(&addr(1), now, now);
    registry.hear(&addr(2), now, now);
    registry.publish();
    registry.hear(&addr(2), now + TTL, now + TTL);
    let later = now + TTL + Duration::from_secs(1);
    assert_eq!(picks(&registry, later, 1000), HashMap::from([(addr(2).to_string(), 1000)]));
}

#[test]
fn the_last_live_one_among_thousands_of_expired_is_found() {
    let (registry, now) = (registry(), Instant::now());
    for n in 0..5000 {
        registry.hear(&addr(n), now, now);
    }
    registry.publish();
    registry.hear(&addr(4321), now + TTL, now + TTL);
    let later = now + TTL + Duration::from_secs(1);
    assert_eq!(picks(&registry, later, 100), HashMap::from([(addr(4321).to_string(), 100)]));
}

#[test]
fn the_sweep_removes_the_silent_and_says_for_how_long_they_were() {
    let (registry, now) = (registry(), Instant::now());
    registry.hear(&addr(1), now, now);
    registry.hear(&addr(2), now, now);
    registry.hear(&addr(2), now + TTL, now + TTL);
    let evicted = registry.sweep(now + TTL + Duration::from_secs(2), Duration::ZERO);
    assert_eq!(evicted.len(), 1);
    assert_eq!(evicted[0].addr, addr(1));
    assert_eq!(evicted[0].silent_for, Duration::from_secs(12));
    registry.publish();
    assert_eq!(picks(&registry, now + TTL, 10).len(), 1);
}

#[test]
fn a_full_registry_keeps_those_it_has_and_takes_new_ones_when_there_is_room() {
    let (registry, now) = (Registry::new(Settings { capacity: 2, ..settings() }), Instant::now());
    assert_eq!(registry.hear(&addr(1), now, now), Recorded::Joined);
    assert_eq!(registry.hear(&addr(2), now, now), Recorded::Joined);
    assert_eq!(registry.hear(&addr(3), now, now), Recorded::Full);
    assert_eq!(registry.hear(&addr(1), now, now), Recorded::Refreshed);
    let later = now + TTL + Duration::from_secs(1);
    registry.sweep(later, Duration::ZERO);
    assert_eq!(registry.hear(&addr(3), later, later), Recorded::Joined);
}

#[test]
fn every_live_one_is_as_likely_as_another() {
    let (registry, now) = (registry(), Instant::now());
    for n in 0..10 {
        registry.hear(&addr(n), now, now);
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
        registry.hear(&addr(n), now, now);
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
    registry.hear(&addr(1), now, now);
    registry.publish();
    let mut reader = registry.reader();
    let shard = reader.pick(now, &mut SmallRng::seed_from_u64(7), &[]).unwrap().traffic().shard(0);
    shard.answered(200);
    let later = now + TTL * 2;
    registry.sweep(later, Duration::ZERO);
    registry.hear(&addr(1), later, later);
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
    let mut last = registry.inner.rotation.load_full();
    for n in 0..10_000 {
        registry.hear(&addr(n), Instant::now(), Instant::now());
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let now = registry.inner.rotation.load_full();
        published += usize::from(!Arc::ptr_eq(&last, &now));
        last = now;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(registry.inner.rotation.load().len(), 10_000);
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
            registry.hear(&addr(who), now, now);
            last.insert(who, now);
            if sweep {
                registry.sweep(now, Duration::ZERO);
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
    let registry = registry();
    let now = Instant::now();
    let speaks = |age: u64, protocol| {
        let addr = addr(1);
        registry.record(&Beat { protocol, ..beat(&addr, now - Duration::from_secs(age)) }, now);
        registry.get(&addr, now).unwrap().protocol
    };
    assert_eq!(speaks(5, Protocol::H2c), Protocol::H2c);
    assert_eq!(speaks(6, Protocol::Http1), Protocol::H2c, "an older one that came later");
    assert_eq!(speaks(4, Protocol::Http1), Protocol::Http1);
    assert_eq!(speaks(4, Protocol::H2c), Protocol::H2c);
}

fn incarnation(id: &str, seq: u64) -> Incarnation {
    Incarnation { id: id.parse().unwrap(), seq }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_goodbye_removes_it_and_what_was_said_before_does_not_bring_it_back() {
    let (registry, addr, now) = (registry(), addr(1), Instant::now() + TTL);
    let says = |phase, seq, sent| {
        let spoken = incarnation("a", seq);
        registry.record(&Beat { phase, incarnation: Some(&spoken), ..beat(&addr, sent) }, now)
    };
    assert_eq!(says(Phase::Up, 1, now - 3 * SECOND), Recorded::Joined);
    assert_eq!(says(Phase::Draining, 3, now - SECOND), Recorded::Draining);
    assert_eq!(registry.get(&addr, now).unwrap().state, State::Draining);
    assert_eq!(says(Phase::Up, 2, now), Recorded::Refreshed, "overtaken, and of no effect");
    assert_eq!(registry.get(&addr, now).unwrap().state, State::Draining);
    assert_eq!(says(Phase::Down, 4, now - SECOND), Recorded::Left);
    assert_eq!(says(Phase::Up, 2, now), Recorded::Superseded);
    assert_eq!(registry.hear(&addr, now - 2 * SECOND, now), Recorded::Superseded, "without a name, before");
    assert_eq!(live(&registry, now), 0);
    let next = incarnation("b", 1);
    let joined = registry.record(&Beat { incarnation: Some(&next), ..beat(&addr, now) }, now);
    assert_eq!(joined, Recorded::Joined, "the next process");
}

#[test]
fn who_has_left_is_not_picked_though_the_snapshot_be_old() {
    let (registry, now) = (registry(), Instant::now());
    registry.hear(&addr(1), now, now);
    registry.publish();
    let mut reader = registry.reader();
    registry.hold(None, None);
    let goodbye = addr(1);
    let goodbye = Beat { phase: Phase::Down, ..beat(&goodbye, now) };
    assert_eq!(registry.record(&goodbye, now), Recorded::Left);
    assert!(reader.pick(now, &mut SmallRng::seed_from_u64(7), &[]).is_none());
}

#[test]
fn an_older_process_never_takes_the_place_of_a_newer_one() {
    let (registry, addr, now) = (registry(), addr(1), Instant::now() + TTL);
    let says = |id, seq, sent| {
        let spoken = incarnation(id, seq);
        registry.record(&Beat { incarnation: Some(&spoken), ..beat(&addr, sent) }, now)
    };
    assert_eq!(says("a", 1, now - 5 * SECOND), Recorded::Joined);
    assert_eq!(says("b", 1, now - 3 * SECOND), Recorded::Refreshed);
    assert_eq!(registry.get(&addr, now).unwrap().process.unwrap().as_str(), "b");
    assert_eq!(says("a", 2, now - 4 * SECOND), Recorded::Superseded);
    assert_eq!(says("c", 1, now - 4 * SECOND), Recorded::Superseded, "never seen, and too old");
    assert_eq!(says("a", 3, now), Recorded::Conflict, "still there");
    assert_eq!(registry.get(&addr, now).unwrap().process.unwrap().as_str(), "b");
    let kinds: Vec<_> = registry.events(&addr).unwrap().iter().map(|event| event.what.kind()).collect();
    assert_eq!(kinds, ["joined", "replaced", "conflict"]);
}

fn picked(registry: &Registry, now: Instant) -> Option<Arc<Entry>> {
    registry.publish();
    registry.reader().pick(now, &mut SmallRng::seed_from_u64(7), &[]).cloned()
}

#[test]
fn without_a_limit_only_those_leave_that_are_silent_and_fail_their_probes() {
    let (registry, now) = (registry(), Instant::now());
    for n in 0..3 {
        registry.hear(&addr(n), now, now);
    }
    registry.hold(None, Some(Frozen::NoNsqd));
    let later = now + 6 * TTL;
    assert!(registry.sweep(later, SECOND).is_empty());
    assert_eq!(live(&registry, later), 3);
    registry.entry(&addr(1)).unwrap().probed(Err("refused".to_owned()), later);
    assert!(registry.sweep(later, SECOND).is_empty(), "not at once");
    let evicted = registry.sweep(later + SECOND, SECOND);
    assert_eq!(evicted.iter().map(|evicted| evicted.reason).collect::<Vec<_>>(), [Reason::ProbeFailed]);
    assert_eq!(
        registry.survey(later, TTL),
        Survey { known: 2, silent: 2, longest: 6 * TTL, out: 0, is_anybody_heard: false }
    );
}

#[test]
fn what_happened_is_kept_bounded_and_when_it_has_left() {
    let (registry, mut now) = (registry(), Instant::now());
    registry.hear(&addr(1), now, now);
    let entry = registry.entry(&addr(1)).unwrap();
    for _ in 0..50 {
        entry.probed(Err("refused".to_owned()), now);
        entry.probed(Ok(()), now);
    }
    assert_eq!(registry.events(&addr(1)).unwrap().len(), 32);
    now += 2 * TTL;
    registry.sweep(now, Duration::ZERO);
    let events = registry.events(&addr(1)).unwrap();
    let via = Some("nsqd:4150".into());
    assert_eq!(events.last().unwrap().what, What::Left { reason: Reason::Expired, silence: 2 * TTL, via });
    registry.sweep(now + DEPARTED_KEPT, Duration::ZERO);
    assert!(registry.events(&addr(1)).is_none());
}

#[test]
fn a_restored_one_has_to_pass_a_probe() {
    let (registry, now) = (registry(), Instant::now());
    let member = Member { addr: addr(1), protocol: Protocol::H2c, incarnation: None };
    assert!(registry.restore(member.clone(), now));
    assert!(!registry.restore(member, now));
    assert!(picked(&registry, now).is_none());
    let entry = registry.entry(&addr(1)).unwrap();
    assert_eq!(entry.probe_due(SECOND), Some(now));
    // Nobody may be able to speak: it is asked again.
    assert_eq!(entry.probed(Err("refused".to_owned()), now), Probed::Unchanged);
    assert_eq!(entry.probe_due(SECOND), Some(now + SECOND));
    assert!(picked(&registry, now).is_none());
    assert_eq!(entry.probed(Ok(()), now), Probed::Back);
    assert_eq!(picked(&registry, now).unwrap().protocol(), Protocol::H2c);
}

#[test]
fn the_first_to_join_is_picked_at_once() {
    let (registry, now) = (registry(), Instant::now());
    let mut reader = registry.reader();
    assert!(reader.pick(now, &mut SmallRng::seed_from_u64(7), &[]).is_none());
    registry.hear(&addr(1), now, now);
    assert!(reader.pick(now, &mut SmallRng::seed_from_u64(7), &[]).is_some());
}

#[test]
fn the_next_gateway_is_told_of_those_that_got_requests_and_stay() {
    let registry = Registry::new(Settings { trusted_joins: 2, ..settings() });
    let now = Instant::now();
    for n in 0..3 {
        registry.hear(&addr(n), now, now);
    }
    registry.record(&Beat { phase: Phase::Draining, ..beat(&addr(1), now) }, now);
    let restored = Member { addr: addr(9), protocol: Protocol::H2c, incarnation: None };
    registry.restore(restored.clone(), now);
    let told = |now| {
        let mut members = registry.members(now);
        members.sort_by_key(|member| member.addr.to_string());
        members
    };
    let heard = Member { addr: addr(0), protocol: Protocol::Http1, incarnation: None };
    assert_eq!(told(now), [heard, restored], "neither who drains nor who is on probation");
    assert!(told(now + 2 * TTL).is_empty(), "nor who is silent");
}

#[test]
fn what_happens_to_anybody_is_in_the_feed_of_all() {
    let (registry, start) = (registry(), Instant::now());
    registry.hear(&addr(1), start, start);
    registry.hear(&addr(2), start, start);
    registry.entry(&addr(1)).unwrap().failed(Failure::Connect, false, start);
    registry.hold(None, Some(Frozen::Silence));
    registry.hold(None, Some(Frozen::Silence));
    registry.hold(Some(TTL), None);
    registry.note_pause(Duration::from_secs(2));
    registry.sweep(start + TTL * 2, Duration::ZERO);
    let happened = registry.happened_since(0);
    let told = |happened: &Happened| {
        (happened.news.kind(), happened.news.addr().map(ToString::to_string).unwrap_or_default())
    };
    let mut told: Vec<_> = happened.iter().map(told).collect();
    told[6..].sort();
    let (one, two) = (addr(1).to_string(), addr(2).to_string());
    let expected = [
        ("joined", &one),
        ("joined", &two),
        ("suspect", &one),
        ("frozen", &String::new()),
        ("flowing", &String::new()),
        ("paused", &String::new()),
        ("evicted", &one),
        ("evicted", &two),
    ];
    assert_eq!(told, expected.map(|(kind, addr)| (kind, addr.clone())));
    assert_eq!(registry.happened_since(6).len(), 2);
    assert_eq!(registry.held().0, Hold::Flowing);
}

#[test]
fn answers_are_timed_on_each_worker_and_summed_up() {
    let traffic = Traffic::default();
    for (worker, millis) in [(0, 3), (1, 5), (1, 7)] {
        traffic.shard(worker).took(Duration::from_millis(millis));
    }
    let totals = traffic.totals();
    assert_eq!((totals.ended, totals.took), (3, Duration::from_millis(15)));
}
