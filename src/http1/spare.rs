//! Memory for the fields of heads, used again: a map that was given back has room already.

use std::cell::RefCell;

use http::{HeaderMap, HeaderValue};

/// Maps that a thread keeps.
const KEPT: usize = 64;

/// Fields that a map has room for at first. Most heads have no more, with what the gateway adds.
const ROOM: usize = 24;

/// Fields that a map may have room for to be kept: one head that was large must not cost memory for ever.
const MOST_ROOM: usize = 4 * ROOM;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for so many fields.
pub(super) fn headers(fields: usize) -> HeaderMap {
    let mut headers = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| HeaderMap::with_capacity(ROOM));
    headers.reserve(fields);
    headers
}

/// Gives back the map of a head that is no longer needed.
pub fn recycle(mut headers: HeaderMap<HeaderValue>) {
    if headers.capacity() == 0 || headers.capacity() > MOST_ROOM {
        return;
    }
    headers.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(headers);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn a_map_that_comes_back_is_empty_and_one_that_grew_large_does_not_come_back() {
        let mut used = headers(2);
        used.append(header::VIA, HeaderValue::from_static("1.1 a"));
        used.append(header::VIA, HeaderValue::from_static("1.1 b"));
        let room = used.capacity();
        recycle(used);
        let again = headers(2);
        assert!(again.is_empty() && again.get(header::VIA).is_none() && again.capacity() == room);

        recycle(headers(10 * MOST_ROOM));
        assert!(headers(2).capacity() <= MOST_ROOM);
    }

    #[test]
    fn no_more_are_kept_than_that() {
        (0..2 * KEPT).map(|_| HeaderMap::with_capacity(ROOM)).for_each(recycle);
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}
