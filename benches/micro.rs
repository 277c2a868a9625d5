//! What single steps cost: `cargo bench --bench micro`.

#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use nsq_gateway::addr::Addr;
use nsq_gateway::heartbeat::Heartbeat;
use nsq_gateway::presence::Phase;
use nsq_gateway::protocol::Protocol;
use nsq_gateway::registry::{Beat, Registry, Settings};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

const SIZES: [usize; 3] = [3, 1_000, 100_000];

fn addrs(count: usize) -> Vec<Addr> {
    (0..count)
        .map(|n| format!("10.{}.{}.{}:80", n >> 16 & 255, n >> 8 & 255, n & 255).parse().unwrap())
        .collect()
}

fn beat(addr: &Addr, sent: Instant) -> Beat<'_> {
    Beat { addr, protocol: Protocol::Http1, phase: Phase::Up, incarnation: None, sent, nsqd: "nsqd:4150" }
}

fn filled(addrs: &[Addr]) -> Registry {
    let registry = Registry::new(Settings {
        ttl: Duration::from_secs(3600),
        capacity: addrs.len(),
        join_rate: 1_000_000,
        trusted_joins: 1_000_000,
        ..Settings::default()
    });
    let now = Instant::now();
    for addr in addrs {
        registry.record(&beat(addr, now), now);
    }
    registry.publish();
    registry
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for size in SIZES {
        let registry = filled(&addrs(size));
        let (mut reader, mut rng, now) = (registry.reader(), SmallRng::seed_from_u64(7), Instant::now());
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| reader.pick(now, &mut rng, &[]).map(|entry| entry.id()));
        });
    }
}

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("record a heartbeat");
    for size in SIZES {
        let addrs = addrs(size);
        let registry = filled(&addrs);
        let (now, mut next) = (Instant::now(), addrs.iter().cycle());
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| registry.record(&beat(next.next().unwrap(), now), now));
        });
    }
}

fn sweep(c: &mut Criterion) {
    let mut group = c.benchmark_group("sweep that finds nobody");
    for size in SIZES {
        let registry = filled(&addrs(size));
        let now = Instant::now();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| registry.sweep(now, Duration::ZERO).len());
        });
    }
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish a snapshot");
    for size in SIZES {
        let registry = filled(&addrs(size));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched(|| (), |()| registry.publish(), BatchSize::SmallInput);
        });
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode a heartbeat");
    for (name, body) in [("plain", &b"10.1.2.3:10001"[..]), ("json", br#"{"addr":"10.1.2.3:10001","seq":7}"#)]
    {
        group.bench_function(name, |b| b.iter(|| Heartbeat::decode(body)));
    }
}

criterion_group!(benches, pick, record, sweep, publish, decode);
criterion_main!(benches);
