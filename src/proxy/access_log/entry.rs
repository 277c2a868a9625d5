//! What becomes of one request, as the layers below tell it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Uri, Version};
use http_body::Frame;
use tokio::time::Instant;

use super::Log;
use crate::http1::BodyError;
use crate::message::{Name, Request, ends_with_head};
use crate::proxy::Incoming;
use crate::proxy::body::{BoxError, Stalled};
use crate::proxy::error::Error;
use crate::proxy::identify::RequestId;
use crate::proxy::pool::Upstream;
use crate::registry::Failure;

/// What stands for the status where there is no answer: the user has left. Nobody sends it; nginx logs it so, too.
const NO_ANSWER: u16 = 499;

/// One request. Whoever has to do with it holds on to it, and with the last of them its line is written.
pub(in crate::proxy) struct Entry {
    log: Rc<Log>,
    begun: Instant,
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) target: Uri,
    pub(super) host: Option<Vec<u8>>,
    pub(super) version: Version,
    pub(super) id: Option<RequestId>,
    pub(super) trace: Option<Vec<u8>>,
    pub(super) tries: RefCell<Vec<Try>>,
    pub(super) status: Cell<u16>,
    pub(super) first_byte: Cell<Option<Duration>>,
    /// A tunnel has no end of an answer.
    ended: Cell<Option<Duration>>,
    pub(super) bytes_in: Cell<u64>,
    pub(super) bytes_out: Cell<u64>,
    pub(super) why: RefCell<Option<Why>>,
}

/// One who was asked.
pub(super) struct Try {
    pub(super) upstream: Rc<Upstream>,
    pub(super) result: Option<Result<u16, Failure>>,
}

/// Why a request failed.
pub(super) struct Why {
    /// In a word: a type of RFC 9209 §2.3, or `user_left`.
    pub(super) error: &'static str,
    pub(super) detail: Cow<'static, str>,
}

impl Entry {
    pub(super) fn new(log: Rc<Log>, client: IpAddr, request: &Request<Incoming>) -> Self {
        let headers = request.headers();
        Self {
            log,
            begun: request.received(),
            client,
            method: request.method().clone(),
            target: request.uri().clone(),
            host: headers.get(Name::Host).map(<[u8]>::to_vec),
            version: request.version(),
            id: request.body().id.clone(),
            trace: headers.get(Name::Traceparent).map(<[u8]>::to_vec),
            tries: RefCell::default(),
            status: Cell::new(NO_ANSWER),
            first_byte: Cell::new(None),
            ended: Cell::new(None),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            why: RefCell::default(),
        }
    }

    /// This dataserver is asked now.
    pub(in crate::proxy) fn asks(&self, upstream: &Rc<Upstream>) {
        self.tries.borrow_mut().push(Try { upstream: upstream.clone(), result: None });
    }

    /// The one that was asked last has failed.
    pub(in crate::proxy) fn try_failed(&self, failure: Failure) {
        self.end_try(Err(failure));
    }

    /// The gateway itself answers, with this.
    pub(in crate::proxy) fn refused(&self, error: &Error) {
        self.fails(error.token(), error.to_string().into());
    }

    /// So much came from the user.
    pub(in crate::proxy) fn add_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    /// So much goes to the user.
    pub(in crate::proxy) fn add_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// Whether there is something to look into: the gateway's own errors, answered ones, users that left, and dataservers
    /// that had to be passed over.
    pub(super) fn failed(&self) -> bool {
        let was_passed_over = |tried: &Try| matches!(tried.result, Some(Err(_)));
        self.status.get() >= 500
            || self.status.get() == NO_ANSWER
            || self.why.borrow().is_some()
            || self.tries.borrow().iter().any(was_passed_over)
    }

    fn end_try(&self, result: Result<u16, Failure>) {
        if let Some(last) = self.tries.borrow_mut().last_mut() {
            last.result.get_or_insert(result);
        }
    }

    fn fails(&self, error: &'static str, detail: Cow<'static, str>) {
        self.why.borrow_mut().get_or_insert(Why { error, detail });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.status.get() == NO_ANSWER {
            self.fails("user_left", "the user left before the answer".into());
        }
        let took = self.ended.get().unwrap_or_else(|| self.begun.elapsed());
        self.log.write(self, took);
    }
}

/// An answer on its way to the user. It rides in the body.
pub(in crate::proxy) struct Answering {
    entry: Rc<Entry>,
    /// There is no body to come, or all of it has come.
    is_whole: bool,
}

impl Answering {
    pub(super) fn new(entry: Rc<Entry>, status: StatusCode) -> Self {
        entry.first_byte.set(Some(entry.begun.elapsed()));
        entry.status.set(status.as_u16());
        // The gateway's own answer is nobody else's.
        if entry.why.borrow().is_none() {
            entry.end_try(Ok(status.as_u16()));
        }
        let is_whole = ends_with_head(entry.method == Method::HEAD, status);
        Self { entry, is_whole }
    }

    /// What its body gave when it was asked for more.
    pub(in crate::proxy) fn polled(&mut self, frame: Option<&Result<Frame<Bytes>, BoxError>>) {
        match frame {
            Some(Ok(frame)) => {
                self.entry.add_out(frame.data_ref().map_or(0, Bytes::len));
            }
            Some(Err(error)) if error.is::<Stalled>() => {
                self.entry
                    .fails("http_response_timeout", "the dataserver did not go on with its answer".into());
            }
            Some(Err(error)) if matches!(error.downcast_ref(), Some(BodyError::Request)) => {
                self.entry.fails("http_request_error", error.to_string().into());
            }
            Some(Err(error)) => {
                self.entry.fails("http_response_incomplete", format!("the answer broke off: {error}").into());
            }
            None => self.is_whole = true,
        }
    }

    /// Its body is no longer wanted.
    pub(in crate::proxy) fn dropped(&self, is_end: bool) {
        if !is_end && !self.is_whole {
            self.entry.fails("user_left", "the user left in the middle of the answer".into());
        }
        if self.entry.status.get() != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
            self.entry.ended.set(Some(self.entry.begun.elapsed()));
        }
    }
}
