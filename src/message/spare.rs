//! Memory for heads, used again: one that was given back has room for its fields already.

#![expect(clippy::unnecessary_box_returns, reason = "it is the boxes that are used again")]

use std::cell::RefCell;
use std::thread::LocalKey;

use super::{Fields, RequestHead, ResponseHead};

/// Heads of each kind that a thread keeps.
const KEPT: usize = 64;

/// Fields that a head has room for at first. Most have no more, with what the gateway adds.
const ROOM: usize = 24;

/// Bytes for them.
const BYTES: usize = 1024;

/// So many times that a head may have room for to be kept: one that was large must not cost memory for ever.
const MOST: usize = 4;

type Spare<T> = RefCell<Vec<Box<T>>>;

thread_local! {
    static REQUESTS: Spare<RequestHead> = const { RefCell::new(Vec::new()) };
    static RESPONSES: Spare<ResponseHead> = const { RefCell::new(Vec::new()) };
}

pub(super) fn request() -> Box<RequestHead> {
    take(&REQUESTS, |head| &mut head.headers)
}

pub(super) fn response() -> Box<ResponseHead> {
    take(&RESPONSES, |head| &mut head.headers)
}

pub(super) fn recycle_request(mut head: Box<RequestHead>) {
    if is_kept(&head.headers) {
        head.clear();
        give_back(&REQUESTS, head);
    }
}

pub(super) fn recycle_response(mut head: Box<ResponseHead>) {
    if is_kept(&head.headers) {
        head.clear();
        give_back(&RESPONSES, head);
    }
}

fn take<T: Default>(spare: &'static LocalKey<Spare<T>>, headers: impl Fn(&mut T) -> &mut Fields) -> Box<T> {
    spare.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
        let mut head = Box::<T>::default();
        headers(&mut head).reserve(ROOM, BYTES);
        head
    })
}

fn is_kept(headers: &Fields) -> bool {
    let (room, bytes) = headers.capacity();
    (1..=MOST * ROOM).contains(&room) && bytes <= MOST * BYTES
}

fn give_back<T>(spare: &'static LocalKey<Spare<T>>, head: Box<T>) {
    spare.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(head);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use crate::message::Name;

    use super::*;

    #[test]
    fn a_head_that_comes_back_is_empty_and_one_that_grew_large_does_not_come_back() {
        let mut used = request();
        used.method = Method::POST;
        used.uri = "/a".parse().unwrap();
        used.headers.append(Name::Via, &HeaderValue::from_static("1.1 a"));
        let room = used.headers.capacity();
        recycle_request(used);
        let again = request();
        assert!(again.headers.is_empty() && again.headers.capacity() == room);
        assert_eq!((&again.method, again.uri.path()), (&Method::GET, "/"));

        for (fields, bytes) in [(2 * MOST * ROOM, 0), (0, 2 * MOST * BYTES)] {
            let mut grown = request();
            grown.headers.reserve(fields, bytes);
            recycle_request(grown);
            let (room, bytes) = request().headers.capacity();
            assert!(room <= MOST * ROOM && bytes <= MOST * BYTES);
        }
    }

    #[test]
    fn no_more_are_kept_than_that() {
        let heads: Vec<_> = (0..2 * KEPT).map(|_| response()).collect();
        heads.into_iter().for_each(recycle_response);
        assert_eq!(RESPONSES.with_borrow(Vec::len), KEPT);
    }
}
