//! Whether a heartbeat may be believed where heartbeats are signed: by who has a key, not long ago, and once.
//!
//! NSQ delivers at least once and in any order, so one that is honest can count as replayed. That costs nobody
//! anything: the one that overtook it said something newer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::WallClock;
use crate::addr::Addr;
use crate::config::{Config, Faults};
use crate::heartbeat::{Heartbeat, Refusal};
use crate::key::Key;
use crate::presence::{Incarnation, ProcessId};

/// Takes signed heartbeats only, each once.
pub struct Signed {
    /// Several while one takes the place of another.
    keys: Vec<Key>,
    tolerance: Duration,
    wall: WallClock,
    last_seqs: Arc<Mutex<LastSeqs>>,
}

impl Signed {
    /// `None` for a config that has no key: then nobody need sign. What was believed `before` is not believed again.
    ///
    /// # Errors
    /// What is wrong with a key's file.
    pub fn of(config: &Config, before: Option<&Self>) -> Result<Option<Self>, Faults> {
        let keys = config.nsq.heartbeat_keys()?;
        if keys.is_empty() {
            return Ok(None);
        }
        let tolerance = config.nsq.clock_tolerance;
        // One whose clock is ahead can be sent again until the time that it claims has come and gone.
        let (span, capacity) = (2 * tolerance, config.registry.capacity);
        let Some(before) = before else {
            let last_seqs = Arc::new(Mutex::new(LastSeqs::new(span, capacity, Instant::now())));
            return Ok(Some(Self { keys, tolerance, wall: WallClock::start(), last_seqs }));
        };
        let mut last_seqs = before.last_seqs.lock().unwrap_or_else(PoisonError::into_inner);
        (last_seqs.span, last_seqs.capacity) = (span, capacity);
        Ok(Some(Self { keys, tolerance, wall: before.wall, last_seqs: before.last_seqs.clone() }))
    }

    /// Whether both believe whoever has the same keys.
    pub fn has_same_keys(&self, other: &Self) -> bool {
        self.keys == other.keys
    }

    /// # Errors
    /// Why it is not believed.
    pub(super) fn check(&self, heartbeat: &Heartbeat, received: Instant) -> Result<(), Refusal> {
        let Heartbeat { addr, incarnation: Some(incarnation), signature: Some(signature), .. } = heartbeat
        else {
            return Err(Refusal::Unsigned);
        };
        if !self.keys.iter().any(|key| signature.is_by(key)) {
            return Err(Refusal::Forged);
        }
        // The clock of the start is right though somebody sets the machine's, and that is right though it has slept.
        let clocks = [self.wall, WallClock::start()].map(|clock| clock.millis_at(received));
        if clocks.iter().all(|now| u128::from(now.abs_diff(signature.time)) > self.tolerance.as_millis()) {
            return Err(Refusal::Clock);
        }
        // Last: who has no key must not be able to fill the memory, nor to use up a number.
        let mut last_seqs = self.last_seqs.lock().unwrap_or_else(PoisonError::into_inner);
        if last_seqs.raise(addr, incarnation, received) { Ok(()) } else { Err(Refusal::Replayed) }
    }
}

/// The last number of each process: in the present span of time, and in the one before. So each is remembered for at
/// least a span after it was heard from last, and forgetting costs nothing.
struct LastSeqs {
    now: HashMap<(Addr, ProcessId), u64>,
    before: HashMap<(Addr, ProcessId), u64>,
    turned: Instant,
    span: Duration,
    capacity: usize,
}

impl LastSeqs {
    fn new(span: Duration, capacity: usize, turned: Instant) -> Self {
        Self { now: HashMap::new(), before: HashMap::new(), turned, span, capacity }
    }

    /// Whether it is above all that were heard from this process.
    fn raise(&mut self, addr: &Addr, Incarnation { id, seq }: &Incarnation, now: Instant) -> bool {
        // Only who has the key gets here. Should one that does make up new processes without end, then the first
        // are forgotten early.
        if self.now.len() >= self.capacity || now.saturating_duration_since(self.turned) >= self.span {
            self.before = std::mem::take(&mut self.now);
            self.turned = now;
        }
        let process = (addr.clone(), id.clone());
        let last = self.now.get(&process).or_else(|| self.before.get(&process));
        let is_new = last.is_none_or(|last| seq > last);
        if is_new {
            self.now.insert(process, *seq);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Phase;

    const TOLERANCE: Duration = Duration::from_secs(60);

    fn key(bytes: &str) -> Key {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, bytes).unwrap();
        Key::load(&file).unwrap()
    }

    fn signed(capacity: usize) -> Signed {
        let last_seqs = LastSeqs::new(2 * TOLERANCE, capacity, Instant::now());
        let wall = WallClock::start();
        Signed {
            keys: vec![key("0123456789abcdef")],
            tolerance: TOLERANCE,
            wall,
            last_seqs: Arc::new(Mutex::new(last_seqs)),
        }
    }

    fn heartbeat(port: u16, id: &str, seq: u64) -> Heartbeat {
        let incarnation = Some(Incarnation { id: id.parse().unwrap(), seq });
        let addr = format!("10.0.0.1:{port}").parse().unwrap();
        Heartbeat { incarnation, phase: Phase::Draining, ..Heartbeat::plain(addr) }
    }

    /// What becomes of a heartbeat that was signed so many seconds ago by the machine's clock.
    fn check(signed: &Signed, heartbeat: &Heartbeat, key: &Key, seconds_ago: i64) -> Result<(), Refusal> {
        let now = Instant::now();
        let time = WallClock::start().millis_at(now).saturating_add_signed(-seconds_ago * 1000);
        signed.check(&Heartbeat::decode(&heartbeat.encode_signed(key, time)).unwrap(), now)
    }

    #[test]
    fn only_who_has_the_key_is_believed() {
        let (signed, ours, other) = (signed(10), key("0123456789abcdef"), key("another key of 16"));
        let plain = Heartbeat::plain("10.0.0.1:1".parse().unwrap());
        for unsigned in [heartbeat(1, "a", 1), plain] {
            assert_eq!(signed.check(&unsigned, Instant::now()), Err(Refusal::Unsigned));
        }
        assert_eq!(check(&signed, &heartbeat(1, "a", 1), &other, 0), Err(Refusal::Forged));
        // A forged one has used up nothing.
        assert_eq!(check(&signed, &heartbeat(1, "a", 1), &ours, 0), Ok(()));
    }

    #[test]
    fn a_clock_may_be_wrong_by_the_tolerance_either_way() {
        let (signed, key) = (signed(10), key("0123456789abcdef"));
        for (seq, (seconds_ago, expected)) in (1..).zip([
            (3600, Err(Refusal::Clock)),
            (61, Err(Refusal::Clock)),
            (58, Ok(())),
            (-58, Ok(())),
            (-61, Err(Refusal::Clock)),
            (-3600, Err(Refusal::Clock)),
        ]) {
            assert_eq!(check(&signed, &heartbeat(1, "a", seq), &key, seconds_ago), expected, "{seconds_ago}");
        }
    }

    /// A machine that slept for an hour, or whose clock somebody set back by an hour: which it was cannot be seen.
    #[tokio::test(start_paused = true)]
    async fn when_the_clocks_of_the_machine_part_either_may_be_right() {
        let (signed, key) = (signed(10), key("0123456789abcdef"));
        tokio::time::advance(Duration::from_secs(3600)).await;
        for (seq, (seconds_ago, expected)) in (1..).zip([
            (0, Ok(())),
            (-3600, Ok(())),
            (-1800, Err(Refusal::Clock)),
            (-7200, Err(Refusal::Clock)),
            (3600, Err(Refusal::Clock)),
        ]) {
            assert_eq!(check(&signed, &heartbeat(1, "a", seq), &key, seconds_ago), expected, "{seconds_ago}");
        }
    }

    /// The machine's clock stands still here: whatever is forgotten would be believed again.
    #[tokio::test(start_paused = true)]
    async fn each_is_believed_once_for_as_long_as_its_time_can_be_good() {
        let key = key("0123456789abcdef");
        for seconds_before in [0, 60, 119] {
            let signed = signed(10);
            tokio::time::advance(Duration::from_secs(seconds_before)).await;
            assert_eq!(check(&signed, &heartbeat(1, "a", 7), &key, 0), Ok(()));
            for seq in 1..=12 {
                assert_eq!(check(&signed, &heartbeat(1, "a", 7), &key, 0), Err(Refusal::Replayed), "{seq}");
                assert_eq!(check(&signed, &heartbeat(1, "a", 6), &key, 0), Err(Refusal::Replayed), "{seq}");
                // Others go on, and are not mistaken for it.
                assert_eq!(check(&signed, &heartbeat(2, "a", seq), &key, 0), Ok(()));
                assert_eq!(check(&signed, &heartbeat(1, "b", seq), &key, 0), Ok(()));
                tokio::time::advance(TOLERANCE / 6).await;
            }
            assert_eq!(check(&signed, &heartbeat(1, "a", 8), &key, 0), Ok(()));
        }
    }

    #[test]
    fn processes_without_end_fill_no_memory() {
        let (signed, key) = (signed(10), key("0123456789abcdef"));
        for seq in 1..=3 {
            for port in 1..=10 {
                assert_eq!(check(&signed, &heartbeat(port, "a", seq), &key, 0), Ok(()));
                assert_eq!(check(&signed, &heartbeat(port, "a", seq), &key, 0), Err(Refusal::Replayed));
            }
        }
        // As many as there may be, and one speaks more often: nobody is forgotten for that.
        for seq in 4..40 {
            assert_eq!(check(&signed, &heartbeat(1, "a", seq), &key, 0), Ok(()));
        }
        for port in 2..=10 {
            assert_eq!(check(&signed, &heartbeat(port, "a", 3), &key, 0), Err(Refusal::Replayed));
        }
        for id in 0..100 {
            assert_eq!(check(&signed, &heartbeat(1, &id.to_string(), 1), &key, 0), Ok(()));
            let seqs = signed.last_seqs.lock().unwrap();
            assert!(seqs.now.len() <= 10 && seqs.before.len() <= 10);
        }
    }
}
