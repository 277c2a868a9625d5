//! What is known of the nsqds: written by the link to each, read by whoever asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Metrics;
use super::names::{CHANNEL_SHARED, NSQD_CONNECTED, NSQD_OFFSET};

pub(super) type Nsqds = Mutex<BTreeMap<String, Arc<Mutex<Shown>>>>;

/// One nsqd, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct NsqdStatus {
    /// Its TCP side.
    pub nsqd: String,
    /// Whether heartbeats are being read from it.
    pub connected: bool,
    /// Since when, or since when not.
    pub since: Instant,
    /// How far its clock is ahead of the gateway's, in seconds; negative if it is behind. `None` if that is not known.
    pub clock_offset: Option<f64>,
    /// Whether others read the channel that this gateway reads: then each gets only a part of the heartbeats.
    pub channel_shared: bool,
}

/// What is shown of one nsqd. There may be two links to it, when one takes the place of the other.
pub(super) struct Shown {
    status: NsqdStatus,
    links: usize,
    connected: usize,
}

/// Keeps what is told of one nsqd, for as long as there is a link to look after.
pub struct NsqdLink {
    metrics: Metrics,
    shown: Arc<Mutex<Shown>>,
    connected: AtomicBool,
}

impl Metrics {
    /// The truth about a link to an nsqd; it says "not connected" until told otherwise. The nsqd is forgotten with its
    /// last link.
    pub fn nsqd(&self, nsqd: &str) -> NsqdLink {
        let mut nsqds = lock(&self.inner.nsqds);
        let shown = nsqds.entry(nsqd.to_owned()).or_insert_with(|| {
            let status = NsqdStatus {
                nsqd: nsqd.to_owned(),
                connected: false,
                since: Instant::now(),
                clock_offset: None,
                channel_shared: false,
            };
            Arc::new(Mutex::new(Shown { status, links: 0, connected: 0 }))
        });
        lock(shown).links += 1;
        NsqdLink { metrics: self.clone(), shown: shown.clone(), connected: AtomicBool::new(false) }
    }

    /// Every known nsqd, sorted by name.
    pub fn nsqds(&self) -> Vec<NsqdStatus> {
        lock(&self.inner.nsqds).values().map(|shown| lock(shown).status.clone()).collect()
    }

    /// How many of the known nsqds heartbeats are being read from, and how many are known.
    pub fn nsqds_connected(&self) -> (usize, usize) {
        let nsqds = self.nsqds();
        (nsqds.iter().filter(|status| status.connected).count(), nsqds.len())
    }

    /// When heartbeats began to be read from the first nsqd.
    pub fn first_connected(&self) -> Option<Instant> {
        self.inner.first_connected.get().copied()
    }

    pub(super) fn publish_nsqds(&self) {
        for status in self.nsqds() {
            self.publish_nsqd(&status);
        }
    }

    fn publish_nsqd(&self, status: &NsqdStatus) {
        let NsqdStatus { nsqd, connected, clock_offset, channel_shared, since: _ } = status;
        let labels = [("nsqd", nsqd.clone().into())];
        let gauge = |name, value| self.inner.gauge(name, &labels, value);
        gauge(NSQD_CONNECTED, f64::from(u8::from(*connected)));
        gauge(CHANNEL_SHARED, f64::from(u8::from(*channel_shared)));
        if let Some(clock_offset) = clock_offset {
            gauge(NSQD_OFFSET, *clock_offset);
        }
    }
}

impl NsqdLink {
    /// Says whether heartbeats are being read.
    pub fn set_connected(&self, connected: bool) {
        if self.connected.swap(connected, Ordering::Relaxed) == connected {
            return;
        }
        let mut shown = lock(&self.shown);
        shown.connected =
            if connected { shown.connected.saturating_add(1) } else { shown.connected.saturating_sub(1) };
        let connected = shown.connected > 0;
        if shown.status.connected != connected {
            (shown.status.connected, shown.status.since) = (connected, Instant::now());
        }
        drop(shown);
        if connected {
            self.metrics.inner.first_connected.get_or_init(Instant::now);
        }
    }

    /// What was said last.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Says how far the clock of the nsqd is ahead of the gateway's, in seconds.
    pub fn set_clock_offset(&self, seconds: Option<f64>) {
        lock(&self.shown).status.clock_offset = seconds;
    }

    /// Says whether others read the channel, too.
    pub fn set_channel_shared(&self, shared: bool) {
        lock(&self.shown).status.channel_shared = shared;
    }
}

impl Drop for NsqdLink {
    fn drop(&mut self) {
        self.set_connected(false);
        let mut nsqds = lock(&self.metrics.inner.nsqds);
        let mut shown = lock(&self.shown);
        shown.links = shown.links.saturating_sub(1);
        if shown.links == 0 {
            nsqds.remove(&shown.status.nsqd);
            // The exporter forgets the series later; until then they must not tell what is not true any more.
            (shown.status.connected, shown.status.channel_shared) = (false, false);
            self.metrics.publish_nsqd(&shown.status);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Scrape;

    #[test]
    fn a_link_that_is_gone_does_not_say_connected() {
        let metrics = Metrics::new(1, &[], &[]).unwrap();
        let render = || metrics.render(&Scrape { dataservers: &[], frozen: false });
        let link = metrics.nsqd("a:4150");
        assert!(!render().contains("gateway_nsqd_clock_offset_seconds{"), "nothing is known of its clock");
        link.set_connected(true);
        link.set_clock_offset(Some(-1.5));
        link.set_channel_shared(true);
        for told in ["nsqd_connected{nsqd=\"a:4150\"} 1", "nsqd_clock_offset_seconds{nsqd=\"a:4150\"} -1.5"] {
            assert!(render().contains(told), "{told}");
        }
        assert!(render().contains("gateway_channel_shared{nsqd=\"a:4150\"} 1"));
        assert_eq!(metrics.nsqds_connected(), (1, 1));
        drop(link);
        for gone in ["gateway_nsqd_connected{nsqd=\"a:4150\"} 0", "gateway_channel_shared{nsqd=\"a:4150\"} 0"]
        {
            assert!(render().contains(gone), "{gone}");
        }
        assert_eq!(metrics.nsqds(), Vec::new());
    }

    #[test]
    fn a_link_that_takes_the_place_of_another_leaves_no_gap() {
        let metrics = Metrics::new(1, &[], &[]).unwrap();
        let old = metrics.nsqd("a:4150");
        old.set_connected(true);
        let new = metrics.nsqd("a:4150");
        assert_eq!(metrics.nsqds_connected(), (1, 1));
        assert!(old.is_connected() && !new.is_connected());
        new.set_connected(true);
        old.set_connected(false);
        drop(old);
        assert_eq!(metrics.nsqds_connected(), (1, 1));
        new.set_connected(false);
        assert_eq!(metrics.nsqds_connected(), (0, 1));
    }
}
