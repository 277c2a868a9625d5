//! What is known of the nsqds: written by the link to each, read by whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::{CHANNEL_SHARED, Metrics, NSQD_CONNECTED, NSQD_OFFSET};

pub(super) type Nsqds = Mutex<BTreeMap<String, Arc<Mutex<NsqdStatus>>>>;

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

/// Keeps what is told of one nsqd, for as long as there is a link to look after.
pub struct NsqdLink {
    metrics: Metrics,
    status: Arc<Mutex<NsqdStatus>>,
}

impl Metrics {
    /// The truth about the link to an nsqd; it says "not connected" until told otherwise, and is
    /// forgotten when dropped.
    pub fn nsqd(&self, nsqd: &str) -> NsqdLink {
        let nsqd = nsqd.to_owned();
        let status = NsqdStatus {
            nsqd: nsqd.clone(),
            connected: false,
            since: Instant::now(),
            clock_offset: None,
            channel_shared: false,
        };
        let status = Arc::new(Mutex::new(status));
        lock(&self.inner.nsqds).insert(nsqd, status.clone());
        NsqdLink { metrics: self.clone(), status }
    }

    /// Every known nsqd, sorted by name.
    pub fn nsqds(&self) -> Vec<NsqdStatus> {
        lock(&self.inner.nsqds).values().map(|status| lock(status).clone()).collect()
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
        let mut status = lock(&self.status);
        if status.connected != connected {
            (status.connected, status.since) = (connected, Instant::now());
        }
        drop(status);
        if connected {
            self.metrics.inner.first_connected.get_or_init(Instant::now);
        }
    }

    /// What was said last.
    pub fn is_connected(&self) -> bool {
        lock(&self.status).connected
    }

    /// Says how far the clock of the nsqd is ahead of the gateway's, in seconds.
    pub fn set_clock_offset(&self, seconds: Option<f64>) {
        lock(&self.status).clock_offset = seconds;
    }

    /// Says whether others read the channel, too.
    pub fn set_channel_shared(&self, shared: bool) {
        lock(&self.status).channel_shared = shared;
    }
}

impl Drop for NsqdLink {
    fn drop(&mut self) {
        let mut last = lock(&self.status).clone();
        let mut nsqds = lock(&self.metrics.inner.nsqds);
        // A new link to the same nsqd may have taken the place.
        if nsqds.get(&last.nsqd).is_some_and(|status| Arc::ptr_eq(status, &self.status)) {
            nsqds.remove(&last.nsqd);
            // The exporter forgets the series later; until then they must not tell what is not true any more.
            (last.connected, last.channel_shared) = (false, false);
            self.metrics.publish_nsqd(&last);
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
}
