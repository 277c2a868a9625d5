use serde_json::Value;

use super::*;
use crate::admin::Admin;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::presence::Phase;
use crate::protocol::Protocol;
use crate::registry::{Beat, Failure, Registry, Settings};

const SECOND: Duration = Duration::from_secs(1);

struct Page {
    shown: Shown,
    start: Instant,
    seconds: u32,
}

impl Page {
    fn new(config: &str) -> Self {
        let config: Config = config.parse().unwrap();
        let registry =
            Registry::new(Settings { join_rate: 1_000_000, trusted_joins: 1_000_000, ..Settings::default() });
        let metrics = Metrics::new(1, &[], &[]).unwrap();
        let shown = Admin::new(registry, metrics, config.into()).state;
        Self { shown, start: Instant::now(), seconds: 0 }
    }

    fn hear(&self, dataservers: std::ops::Range<usize>) {
        let now = self.now();
        for n in dataservers {
            let addr = format!("10.0.{}.{}:80", n >> 8, n & 255).parse().unwrap();
            let (protocol, phase) = (Protocol::Http1, Phase::Up);
            let beat = Beat { addr: &addr, protocol, phase, incarnation: None, sent: now, nsqd: "nsqd:4150" };
            self.shown.registry.record(&beat, now);
        }
    }

    fn now(&self) -> Instant {
        self.start + SECOND * self.seconds
    }

    fn tick(&mut self) {
        self.seconds += 1;
        self.shown.stream.lock().tick(&self.shown, self.now());
    }

    fn watch(&self) -> mpsc::Receiver<Bytes> {
        self.shown.stream.lock().admit(&self.shown, self.now()).unwrap()
    }
}

/// The next message that waits, its event and its data.
fn next(messages: &mut mpsc::Receiver<Bytes>) -> Option<(String, Value)> {
    let message = messages.try_recv().ok()?;
    let text = std::str::from_utf8(&message).unwrap().trim_start_matches(RETRY).to_owned();
    let (event, data) = text.strip_suffix("\n\n").unwrap().split_once('\n').unwrap();
    let event = event.strip_prefix("event: ").unwrap().to_owned();
    Some((event, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()))
}

fn len(data: &Value, key: &str) -> usize {
    data[key].as_array().map_or(0, Vec::len)
}

#[test]
fn nobody_is_looked_at_while_nobody_watches_and_the_graph_goes_on() {
    let mut page = Page::new("");
    page.hear(0..3);
    for _ in 0..3 {
        page.tick();
    }
    assert!(page.shown.stream.lock().rows.looked_at().is_none());
    let mut messages = page.watch();
    let (_, state) = next(&mut messages).unwrap();
    assert_eq!((len(&state, "rows"), len(&state, "graph"), len(&state, "events")), (3, 2, 3));
    drop(messages);
    page.tick();
    let stream = page.shown.stream.lock();
    assert!(stream.rows.looked_at().is_none() && stream.state.is_none() && stream.viewers.is_empty());
}

#[test]
fn a_second_tells_only_of_those_who_changed() {
    let mut page = Page::new("");
    page.hear(0..100);
    let mut messages = page.watch();
    assert_eq!(next(&mut messages).unwrap().0, "state");
    page.tick();
    let (event, first) = next(&mut messages).unwrap();
    // From now on there are rates.
    assert_eq!((event.as_str(), len(&first, "changed")), ("delta", 100));
    page.hear(0..7);
    page.hear(100..102);
    let entry = page.shown.registry.entry(&"10.0.0.50:80".parse().unwrap()).unwrap();
    entry.failed(Failure::Connect, false, Instant::now());
    page.tick();
    let (_, second) = next(&mut messages).unwrap();
    assert_eq!((len(&second, "changed"), len(&second, "new"), len(&second, "events")), (8, 2, 3), "{second}");
    // In the end all have been silent for too long.
    let mut gone = 0;
    for _ in 0..12 {
        page.tick();
        gone += len(&next(&mut messages).unwrap().1, "gone");
    }
    assert_eq!(gone, 102);
}

#[test]
fn who_is_slow_is_left_out_and_told_all_again_when_it_has_caught_up() {
    let mut page = Page::new("");
    page.hear(0..10);
    let (mut slow, mut quick) = (page.watch(), page.watch());
    for n in 10..60 {
        page.hear(0..n + 1);
        page.tick();
        assert!(std::iter::from_fn(|| next(&mut quick)).count() > 0);
    }
    let waiting: Vec<_> = std::iter::from_fn(|| next(&mut slow)).collect();
    assert_eq!(waiting.iter().map(|(event, _)| event.as_str()).collect::<Vec<_>>(), ["state", "delta"]);
    page.tick();
    // Of what it has missed nothing is told but what it comes to.
    let (event, state) = next(&mut slow).unwrap();
    assert_eq!((event.as_str(), len(&state, "rows")), ("state", 60));
    page.tick();
    assert_eq!(next(&mut slow).unwrap().0, "delta");
}

#[test]
fn all_who_watch_get_the_same_bytes() {
    let mut page = Page::new("");
    page.hear(0..10);
    let mut viewers = [page.watch(), page.watch(), page.watch()];
    for _ in 0..2 {
        let messages: Vec<_> = viewers.iter_mut().map(|viewer| viewer.try_recv().unwrap().as_ptr()).collect();
        assert!(messages.windows(2).all(|pair| pair[0] == pair[1]), "{messages:?}");
        page.tick();
    }
}

#[test]
fn there_are_at_most_so_many_viewers_and_those_who_left_do_not_count() {
    let page = Page::new("limits: {viewers: 2}");
    let first = page.watch();
    let _second = page.watch();
    let third = || page.shown.stream.lock().admit(&page.shown, page.now());
    assert!(third().is_none());
    drop(first);
    assert!(third().is_some());
}

#[test]
fn a_drain_is_told_and_is_the_end_also_for_who_comes_later() {
    let page = Page::new("");
    let mut messages = page.watch();
    page.shown.draining.cancel();
    page.shown.stream.end(&page.shown);
    let told: Vec<_> = std::iter::from_fn(|| next(&mut messages)).collect();
    assert_eq!(told.last().unwrap().1["set"]["not_ready"], "draining");
    assert!(messages.is_closed());
    let mut late = page.watch();
    assert_eq!(next(&mut late).unwrap().1["set"]["not_ready"], "draining");
    assert_eq!(late.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
}
