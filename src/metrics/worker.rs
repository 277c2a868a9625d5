//! What one worker counts. Only that worker writes, so an addition is a plain load and store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;

/// Upper bounds of the histogram's buckets, in seconds.
pub(super) const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The same in nanoseconds, as durations are compared on the data path.
const BUCKET_NANOS: [u64; BUCKETS.len()] = {
    let mut nanos = [0; BUCKETS.len()];
    let mut n = 0;
    while n < BUCKETS.len() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and positive")]
        #[expect(clippy::indexing_slicing, reason = "at compile time")]
        {
            nanos[n] = (BUCKETS[n] * 1e9) as u64;
        }
        n += 1;
    }
    nanos
};

/// Labels are bounded: a method that is none of these is counted as `other`.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];

const CODES: usize = 500; // 100 to 599

/// Where those begin that say whose fault it was: the server's.
const SERVER_ERRORS: usize = 400;

/// The counts of one worker.
pub struct Worker {
    /// By method and status.
    requests: Box<[AtomicU64]>,
    in_flight: AtomicU64,
    durations: [Bucket; BUCKETS.len() + 1],
    retries: [AtomicU64; Retry::ALL.len()],
    connections: [AtomicU64; Protocol::ALL.len()],
    refused: [AtomicU64; Refused::ALL.len()],
}

/// What fell into a bucket: with the sum, the exporter's histogram gets the exact mean.
#[derive(Default)]
struct Bucket {
    count: AtomicU64,
    nanos: AtomicU64,
    /// What of both the exporter has had. Written by whoever publishes, one at a time.
    published: [AtomicU64; 2],
}

/// Why a request went to another dataserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Retry {
    /// The first's name could not be resolved.
    Resolve,
    /// The first could not be connected to.
    Connect,
    /// The first could not be connected to in time.
    ConnectTimeout,
    /// A kept connection ended before anything was sent on it.
    Closed,
    /// The first's machine was not heard from any more.
    Lost,
    /// The first takes no more requests for now.
    Refused,
    /// The first does not speak what it announced, which showed before anything was sent.
    Protocol,
}

impl Retry {
    pub(super) const ALL: [Self; 7] = [
        Self::Resolve,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Closed,
        Self::Lost,
        Self::Refused,
        Self::Protocol,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Closed => "closed",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
        }
    }
}

/// What is spoken on a user's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Protocol {
    /// Nothing yet that would tell.
    Unknown,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge or by ALPN.
    Http2,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Unknown, Self::Http1, Self::Http2];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// Why the gateway ended a connection: before any HTTP, or for what was said in HTTP/2. What is no request of HTTP/1 is
/// counted as a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Refused {
    /// It did not begin with a PROXY protocol header though it has to.
    ProxyProtocol,
    /// It came from who may not send such a header.
    ProxyProtocolSender,
    /// The TLS handshake failed.
    Tls,
    /// The rules of HTTP/2 were broken, or stretched further than any use of them needs.
    Http2,
    /// More streams were cancelled than `limits.cancelled_streams`.
    CancelledStreams,
}

impl Refused {
    pub(super) const ALL: [Self; 5] =
        [Self::ProxyProtocol, Self::ProxyProtocolSender, Self::Tls, Self::Http2, Self::CancelledStreams];

    /// As it stands in the metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::ProxyProtocol => "proxy_protocol",
            Self::ProxyProtocolSender => "proxy_protocol_sender",
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::CancelledStreams => "cancelled_streams",
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            requests: (0..METHODS.len() * CODES).map(|_| AtomicU64::new(0)).collect(),
            in_flight: AtomicU64::new(0),
            durations: Default::default(),
            retries: Default::default(),
            connections: Default::default(),
            refused: Default::default(),
        }
    }
}

impl Worker {
    /// A request came in.
    pub fn begin(&self) {
        add(&self.in_flight, 1);
    }

    /// Its answer ended, or nobody waits for it any more.
    pub fn end(&self) {
        add(&self.in_flight, u64::MAX);
    }

    /// A request was answered with this status, and the answer ended after this time.
    pub fn answered(&self, method: &Method, status: u16, took: Duration) {
        let code = usize::from(status).saturating_sub(100);
        // A status has three digits, and standards end at 599: what is over that is counted as that.
        let code = code.min(CODES - 1);
        if let Some(count) = self.requests.get(method_index(method) * CODES + code) {
            add(count, 1);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKET_NANOS.iter().position(|bound| nanos <= *bound).unwrap_or(BUCKETS.len());
        if let Some(bucket) = self.durations.get(bucket) {
            // In this order: whoever reads in between sees a time without its request, and not the reverse.
            add(&bucket.nanos, nanos);
            add(&bucket.count, 1);
        }
    }

    /// Something that is no request was refused with this status.
    pub fn refused_head(&self, status: u16) {
        let code = usize::from(status).saturating_sub(100).min(CODES - 1);
        if let Some(count) = self.requests.get((METHODS.len() - 1) * CODES + code) {
            add(count, 1);
        }
    }

    /// A request goes to another dataserver.
    pub fn retried(&self, reason: Retry) {
        if let Some(count) = self.retries.get(reason as usize) {
            add(count, 1);
        }
    }

    /// A connection opened.
    pub fn opened(&self, protocol: Protocol) {
        if let Some(count) = self.connections.get(protocol as usize) {
            add(count, 1);
        }
    }

    /// A connection closed.
    pub fn closed(&self, protocol: Protocol) {
        if let Some(count) = self.connections.get(protocol as usize) {
            add(count, u64::MAX);
        }
    }

    /// A connection was ended for this.
    pub fn refused(&self, reason: Refused) {
        if let Some(count) = self.refused.get(reason as usize) {
            add(count, 1);
        }
    }

    /// Requests under way on this worker.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn retries(&self, reason: Retry) -> u64 {
        self.retries.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn connections(&self, protocol: Protocol) -> u64 {
        self.connections.get(protocol as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn connections_refused(&self, reason: Refused) -> u64 {
        self.refused.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Answers with a status of 500 or more.
    pub(super) fn errors(&self) -> u64 {
        let of_method = |codes: &[AtomicU64]| -> u64 {
            codes.iter().skip(SERVER_ERRORS).map(|count| count.load(Ordering::Relaxed)).sum()
        };
        self.requests.chunks(CODES).map(of_method).sum()
    }

    /// The count and the nanoseconds of each bucket.
    pub(super) fn durations(&self) -> impl Iterator<Item = (u64, u64)> {
        self.durations
            .iter()
            .map(|bucket| (bucket.count.load(Ordering::Acquire), bucket.nanos.load(Ordering::Acquire)))
    }

    /// Hands what was measured since the last time to `record`, as a mean in seconds and a count for each bucket.
    pub(super) fn take_durations(&self, mut record: impl FnMut(f64, usize)) {
        for bucket in &self.durations {
            let [count, nanos] = [&bucket.count, &bucket.nanos].map(|n| n.load(Ordering::Acquire));
            let [had_count, had_nanos] = &bucket.published;
            let (count, nanos) = (
                count - had_count.swap(count, Ordering::Relaxed),
                nanos - had_nanos.swap(nanos, Ordering::Relaxed),
            );
            if count > 0 {
                #[expect(clippy::cast_precision_loss, reason = "a mean of durations needs no 64 bits")]
                let mean = nanos as f64 / count as f64 / 1e9;
                record(mean, usize::try_from(count).unwrap_or(usize::MAX));
            }
        }
    }
}

/// The requests of all workers: method, status, count, without those that are zero.
pub(super) fn sum_requests(workers: &[Arc<Worker>]) -> impl Iterator<Item = (&'static str, usize, u64)> {
    let sum = |index| -> u64 {
        workers
            .iter()
            .filter_map(|worker| worker.requests.get(index))
            .map(|n: &AtomicU64| n.load(Ordering::Relaxed))
            .sum()
    };
    let sums: Vec<_> = (0..METHODS.len() * CODES).map(|index| (index, sum(index))).collect();
    sums.into_iter().filter(|(_, count)| *count > 0).map(|(index, count)| {
        let method = METHODS.get(index / CODES).copied().unwrap_or("other");
        (method, index % CODES + 100, count)
    })
}

fn method_index(method: &Method) -> usize {
    let last = METHODS.len() - 1;
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(last).min(last)
}

/// With a single writer this needs no locked instruction.
fn add(count: &AtomicU64, n: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}
