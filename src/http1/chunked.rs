//! The chunked transfer coding (RFC 9112 §7.1), read strictly: what two readers could take differently is an error.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::head::{Limits, LongName, append};
use crate::message::Fields;

/// Bytes of extensions in one body. Nobody uses them but to hide something.
const MAX_EXTENSIONS: usize = 4096;

/// Digits of a chunk's size that cannot overflow.
const MAX_DIGITS: usize = 15;

/// A chunked body, as far as it was read.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    extensions: usize,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In the line that says how large the next chunk is.
    Size,
    /// In a chunk, with so much left of it.
    Data(u64),
    /// In the line end after a chunk.
    DataEnd,
    /// In the fields after the last chunk, of which so much was looked at.
    Trailers(usize),
    End,
}

/// What was read.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// More bytes have to come first.
    Incomplete,
}

/// What is wrong with a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the size of a chunk is malformed")]
    Size,
    #[error("the extension of a chunk is malformed or too long")]
    Extension,
    #[error("a chunk does not end where its size says")]
    DataEnd,
    #[error("the trailers are malformed or too long")]
    Trailers,
}

impl Chunked {
    pub(super) fn new(limits: Limits) -> Self {
        Self { state: State::Size, extensions: 0, limits }
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Takes the next part from the front of `bytes`.
    pub(super) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Part, Malformed> {
        loop {
            match self.state {
                State::Size => match size_line(bytes)? {
                    None => return Ok(Part::Incomplete),
                    Some((size, line)) => {
                        self.extensions += line.extension;
                        if self.extensions > MAX_EXTENSIONS {
                            return Err(Malformed::Extension);
                        }
                        bytes.advance(line.len);
                        self.state = if size == 0 { State::Trailers(0) } else { State::Data(size) };
                    }
                },
                State::Data(left) => {
                    if bytes.is_empty() {
                        return Ok(Part::Incomplete);
                    }
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let left = left.saturating_sub(now as u64);
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    let data = bytes.split_to(now).freeze();
                    // Also what follows at once: whoever gets the last chunk learns early that it is the last.
                    self.pass_data_end(bytes)?;
                    return Ok(Part::Data(data));
                }
                State::DataEnd => {
                    self.pass_data_end(bytes)?;
                    if matches!(self.state, State::DataEnd) {
                        return Ok(Part::Incomplete);
                    }
                }
                State::Trailers(seen) => return self.trailers(bytes, seen),
                State::End => return Ok(Part::End),
            }
        }
    }

    fn pass_data_end(&mut self, bytes: &mut BytesMut) -> Result<(), Malformed> {
        if !matches!(self.state, State::DataEnd) {
            return Ok(());
        }
        match bytes.get(..2) {
            Some(b"\r\n") => {
                bytes.advance(2);
                self.state = State::Size;
                // The end of the body most often comes with its last chunk.
                if bytes.starts_with(b"0\r\n\r\n") {
                    bytes.advance(5);
                    self.state = State::End;
                }
                Ok(())
            }
            None if b"\r".starts_with(bytes) => Ok(()),
            Some(_) | None => Err(Malformed::DataEnd),
        }
    }

    fn trailers(&mut self, bytes: &mut BytesMut, seen: usize) -> Result<Part, Malformed> {
        match bytes.get(..2) {
            Some(b"\r\n") => {
                bytes.advance(2);
                self.state = State::End;
                return Ok(Part::End);
            }
            None if b"\r".starts_with(bytes) => return Ok(Part::Incomplete),
            Some(_) | None => {}
        }
        // What comes byte by byte must not be parsed for each.
        let fresh = bytes.get(seen.saturating_sub(3)..).unwrap_or_default();
        let may_end =
            fresh.windows(2).any(|end| end == b"\n\n") || fresh.windows(4).any(|end| end == b"\r\n\r\n");
        if !may_end && bytes.len() <= self.limits.bytes {
            self.state = State::Trailers(bytes.len());
            return Ok(Part::Incomplete);
        }
        let mut fields = vec![httparse::EMPTY_HEADER; self.limits.fields];
        let (len, fields) = match httparse::parse_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) if bytes.len() <= self.limits.bytes => return Ok(Part::Incomplete),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed::Trailers),
        };
        let lines = bytes.get(..len).unwrap_or_default();
        let is_bare = |(n, b): (usize, &u8)| *b == b'\n' && (n == 0 || lines.get(n - 1) != Some(&b'\r'));
        // A line end that not everybody takes for one could hide what follows.
        if len > self.limits.bytes || lines.iter().enumerate().any(is_bare) {
            return Err(Malformed::Trailers);
        }
        let mut trailers = Fields::new();
        append(fields, &mut trailers).map_err(|LongName| Malformed::Trailers)?;
        bytes.advance(len);
        self.state = State::End;
        Ok(Part::Trailers(HeaderMap::from(&trailers)))
    }
}

struct Line {
    len: usize,
    extension: usize,
}

/// A chunk's size and the line that it stands in; `None` if that has not come to its end.
fn size_line(bytes: &[u8]) -> Result<Option<(u64, Line)>, Malformed> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits > MAX_DIGITS || (digits == 0 && !bytes.is_empty()) {
        return Err(Malformed::Size);
    }
    let (size, rest) = bytes.split_at_checked(digits).unwrap_or_default();
    // White space is for a recipient to remove, but only where an extension follows it.
    let spaces = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    match rest.get(spaces) {
        None if spaces > MAX_EXTENSIONS => return Err(Malformed::Extension),
        None => return Ok(None),
        Some(b';') => {}
        Some(b'\r') if spaces == 0 => {}
        Some(_) => return Err(Malformed::Size),
    }
    let Some(extension) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
        return if rest.len() > MAX_EXTENSIONS { Err(Malformed::Extension) } else { Ok(None) };
    };
    let (text, end) = rest.split_at_checked(extension).unwrap_or_default();
    if text.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(Malformed::Extension);
    }
    match end.get(..2) {
        Some(b"\r\n") => {}
        None if end == b"\r" => return Ok(None),
        Some(_) | None => return Err(Malformed::Size),
    }
    // Fifteen hexadecimal digits fit.
    let size = size
        .iter()
        .fold(0, |size, digit| size << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or_default()));
    Ok(Some((size, Line { len: digits + extension + 2, extension })))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 256, fields: 4 };

    /// Reads a body that comes in pieces of `step` bytes: its data, its trailers, and what is left over.
    fn read(body: &[u8], step: usize) -> Result<(Vec<u8>, HeaderMap, usize), Option<Malformed>> {
        let (mut chunked, mut bytes) = (Chunked::new(LIMITS), BytesMut::new());
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut pieces = body.chunks(step);
        let mut rest = body.len();
        loop {
            match chunked.decode(&mut bytes).map_err(Some)? {
                Part::Data(more) => data.extend_from_slice(&more),
                Part::Trailers(fields) => trailers = fields,
                Part::End => return Ok((data, trailers, rest + bytes.len())),
                Part::Incomplete => {
                    let piece = pieces.next().ok_or(None)?;
                    rest -= piece.len();
                    bytes.extend_from_slice(piece);
                }
            }
        }
    }

    #[test]
    fn http_14_what_two_readers_could_take_differently_is_an_error() {
        for (body, expected) in [
            ("0x1\r\na\r\n0\r\n\r\n", Malformed::Size),
            ("1_0\r\n", Malformed::Size),
            ("-1\r\n", Malformed::Size),
            ("\r\n", Malformed::Size),
            (" 1\r\na\r\n", Malformed::Size),
            ("1 \r\na\r\n", Malformed::Size),
            ("1\na\r\n", Malformed::Size),
            ("1\ra\r\n", Malformed::Size),
            ("1;a\nb\r\n", Malformed::Size),
            ("fffffffffffffffff\r\n", Malformed::Size),
            ("1;\x01\r\na\r\n", Malformed::Extension),
            ("1\r\nab\r\n", Malformed::DataEnd),
            ("1\r\na\n0\r\n\r\n", Malformed::DataEnd),
            ("0\r\nx\r\n\r\n", Malformed::Trailers),
            ("0\r\nx: y\n\nGET / HTTP/1.1\r\n\r\n", Malformed::Trailers),
        ] {
            for step in [1, body.len()] {
                assert_eq!(read(body.as_bytes(), step), Err(Some(expected)), "{body:?}");
            }
        }
        let long = format!("1;{}", "a".repeat(2 * MAX_EXTENSIONS));
        assert_eq!(read(long.as_bytes(), 100), Err(Some(Malformed::Extension)));
        let often = "1;aaaaaaaaa\r\na\r\n".repeat(MAX_EXTENSIONS / 10 + 1);
        assert_eq!(read(often.as_bytes(), 1000), Err(Some(Malformed::Extension)));
        let trailers = format!("0\r\na: {}", "a".repeat(300));
        assert_eq!(read(trailers.as_bytes(), 100), Err(Some(Malformed::Trailers)));
    }

    #[test]
    fn extensions_and_trailers_are_read() {
        let body = b"5;a=\"b\"\r\nhello\r\n6 ; c\r\n world\r\n0\r\nx: 1\r\n\r\nnext";
        for step in 1..body.len() {
            let (data, trailers, rest) = read(body, step).unwrap();
            assert_eq!((data.as_slice(), rest), (b"hello world".as_slice(), 4));
            assert_eq!(trailers["x"], "1");
        }
        assert_eq!(read(b"5\r\nhell", 3), Err(None), "it is not whole");
    }

    fn bytes_of(alphabet: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(alphabet), 0..60)
    }

    /// Lines that a chunked body is made of, and some that it is not, in any order.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec![
            "1\r\n",
            "2;x\r\n",
            "02\r\n",
            "1 ;y=\"z\"\r\n",
            "0\r\n",
            "000;x\r\n",
            "a\r\n",
            "ab\r\n",
            "\r\n",
            "x: 1\r\n",
            "y:\r\n",
            "\n",
            "1\n",
            "1 \r\n",
            "x : 1\r\n",
            " x: 1\r\n",
            "b",
            "\r",
        ]);
        prop::collection::vec(line, 0..9).prop_map(|lines| lines.concat().into_bytes())
    }

    struct Whole {
        data: Vec<u8>,
        trailers: usize,
        rest: usize,
    }

    /// A body as RFC 9112 §7.1 has it, read slowly and from a whole; `None` if it is not whole, as far as that can be
    /// told by its lines alone.
    fn by_the_grammar(body: &[u8]) -> Option<Result<Whole, ()>> {
        let (mut left, mut data) = (body, Vec::new());
        let line = |left: &mut &[u8]| -> Option<Result<Vec<u8>, ()>> {
            let end = left.iter().position(|b| *b == b'\n')?;
            let (line, rest) = left.split_at(end + 1);
            *left = rest;
            Some(
                line.strip_suffix(b"\r\n")
                    .filter(|line| !line.contains(&b'\r'))
                    .map(<[u8]>::to_vec)
                    .ok_or(()),
            )
        };
        loop {
            let Ok(size) = line(&mut left)? else { return Some(Err(())) };
            let digits = size.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            let (digits, extension) = size.split_at(digits);
            let starts = extension.trim_ascii_start();
            if digits.is_empty() || !(extension.is_empty() || starts.starts_with(b";")) {
                return Some(Err(()));
            }
            if extension.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
                return Some(Err(()));
            }
            let digits = std::str::from_utf8(digits).unwrap();
            let Ok(size) = usize::from_str_radix(digits, 16) else { return Some(Err(())) };
            if size == 0 {
                break;
            }
            let chunk = left.get(..size)?;
            data.extend_from_slice(chunk);
            left = &left[size..];
            match left.get(..2)? {
                b"\r\n" => left = &left[2..],
                _ => return Some(Err(())),
            }
        }
        let mut trailers = 0;
        loop {
            let Ok(field) = line(&mut left)? else { return Some(Err(())) };
            if field.is_empty() {
                return Some(if trailers <= LIMITS.fields {
                    Ok(Whole { data, trailers, rest: left.len() })
                } else {
                    Err(())
                });
            }
            let Some(colon) = field.iter().position(|b| *b == b':') else { return Some(Err(())) };
            let (name, value) = (&field[..colon], &field[colon + 1..]);
            let is_value = value.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f));
            if HeaderName::from_bytes(name).is_err() || !is_value {
                return Some(Err(()));
            }
            trailers += 1;
        }
    }

    proptest! {
        #[test]
        fn what_was_coded_is_read_however_it_comes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            step in 1_usize..64,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let (data, trailers, rest) = read(&body, step).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert!(trailers.is_empty() && rest == 0);
        }

        #[test]
        fn any_bytes_are_what_the_grammar_makes_of_them_however_they_come(
            body in prop_oneof![bytes_of(b"0123aAfF;=x \"\t\r\n\r\n\r\n:,\0"), lines(), prop::collection::vec(any::<u8>(), 0..100)],
            step in 1_usize..9,
        ) {
            let expected = by_the_grammar(&body);
            for step in [step, body.len().max(1)] {
                match (read(&body, step), &expected) {
                    (Ok((data, trailers, rest)), Some(Ok(whole))) => {
                        prop_assert_eq!((&data, trailers.len(), rest), (&whole.data, whole.trailers, whole.rest));
                    }
                    // Some of what cannot become a body is refused before it is whole, and some waited for.
                    (Err(_), Some(Err(())) | None) => {}
                    (read, _) => prop_assert!(false, "{:?}, by the grammar {:?}", read, expected.is_some()),
                }
            }
        }
    }
}
