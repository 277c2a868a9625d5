//! Bodies in pieces.

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// The most bytes of one: as many as a frame of HTTP/2 holds (RFC 9113 §4.2).
pub const PIECE: usize = 16 * 1024;

/// Hands on what came at once one piece after the other. HTTP/2 takes what it is given before there is room for it, and asks for
/// more when all of that is out: of large pieces nobody could see that they move, and much would be held for a reader
/// that does not read.
#[derive(Debug, Default)]
pub struct Pieces {
    rest: Bytes,
}

/// Of what is left.
impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        (!self.rest.is_empty()).then(|| self.rest.split_to(PIECE.min(self.rest.len())))
    }
}

impl Pieces {
    /// The first piece of a frame; there must be none left of the one before.
    pub fn first_of(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) if data.len() > PIECE => {
                self.rest = data;
                Frame::data(self.next().unwrap_or_default())
            }
            Ok(data) => Frame::data(data),
            Err(frame) => frame,
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How much there is of a body, of which what is left here was taken.
    pub fn and(&self, body: SizeHint) -> SizeHint {
        let with_rest = |length: u64| length.saturating_add(self.rest.len() as u64);
        body.exact().map_or(body, |length| SizeHint::with_exact(with_rest(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_comes_in_pieces_and_all_of_it() {
        for (length, sizes) in
            [(0, &[0][..]), (1, &[1]), (PIECE, &[PIECE]), (PIECE + 1, &[PIECE, 1]), (3 * PIECE, &[PIECE; 3])]
        {
            let data: Bytes = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut pieces = Pieces::default();
            let first = pieces.first_of(Frame::data(data.clone())).into_data().unwrap();
            let exact = pieces.and(SizeHint::with_exact(7)).exact();
            assert_eq!(exact, Some((7 + length - first.len()) as u64));
            let all: Vec<_> = [first].into_iter().chain(&mut pieces).collect();
            assert_eq!(all.iter().map(Bytes::len).collect::<Vec<_>>(), sizes);
            assert_eq!(all.concat(), data);
            assert!(pieces.is_empty());
        }
    }
}
