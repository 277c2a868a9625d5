//! A message on its way out: never more of it than a head and one frame of the body.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, header};
use http_body::{Body, Frame};

use super::wire::{Io, Wire};

/// Where the body of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    NoBody,
    /// After so many bytes.
    Known(u64),
    Chunked,
    /// With the connection, as only an answer's can.
    UntilClose,
}

/// A message, of which what is not here yet is in its body.
#[expect(clippy::struct_excessive_bools, reason = "they do not depend on each other")]
pub(super) struct Output {
    /// What is left of the body.
    framing: Framing,
    takes_trailers: bool,
    /// All of the body was taken in.
    ended: bool,
    /// A head or the size of a chunk.
    front: Vec<u8>,
    /// Of `front` so much is written.
    front_written: usize,
    data: Bytes,
    /// What ends the data.
    end: &'static [u8],
    /// Those that are in `front`, for as long as nothing was written. In a box: few messages have any.
    trailers: Option<Box<HeaderMap>>,
    /// Something was written that the socket may hold back, as TLS does.
    unflushed: bool,
    begun: bool,
}

/// The body is not what its message said.
pub(super) enum BadBody<E> {
    Error(E),
    Length,
}

impl Output {
    pub(super) fn new(head: Vec<u8>, framing: Framing, takes_trailers: bool) -> Self {
        let ended = matches!(framing, Framing::NoBody | Framing::Known(0));
        let (data, end) = (Bytes::new(), &[][..]);
        Self {
            framing,
            takes_trailers,
            ended,
            front: head,
            front_written: 0,
            data,
            end,
            trailers: None,
            unflushed: false,
            begun: false,
        }
    }

    /// Whether all is out.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.is_written()
    }

    /// Whether nothing more is to be taken in.
    pub(super) fn is_all_here(&self) -> bool {
        self.ended
    }

    /// Whether all that was taken in is out.
    pub(super) fn is_written(&self) -> bool {
        !self.unflushed && self.front.is_empty() && self.takes_data()
    }

    fn takes_data(&self) -> bool {
        self.data.is_empty() && self.end.is_empty()
    }

    /// Whether nothing was written yet.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun
    }

    /// What was taken in of the body of a message of which nothing was written, to give it back.
    pub(super) fn take_back(&mut self) -> Vec<Frame<Bytes>> {
        let data = Some(std::mem::take(&mut self.data)).filter(|data| !data.is_empty()).map(Frame::data);
        let trailers = self.trailers.take().map(|trailers| Frame::trailers(*trailers));
        data.into_iter().chain(trailers).collect()
    }

    /// Takes in what there is room for. The first frame goes out with the head, if it is there already.
    pub(super) fn fill<B: Body<Data = Bytes>>(
        &mut self,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Result<(), BadBody<B::Error>> {
        while !self.ended && self.takes_data() {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.put(frame, body.is_end_stream())?,
                Poll::Ready(Some(Err(error))) => return Err(BadBody::Error(error)),
                Poll::Ready(None) => self.put_end(None)?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn put<E>(&mut self, frame: Frame<Bytes>, is_last: bool) -> Result<(), BadBody<E>> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.put_end(frame.into_trailers().ok()),
        };
        if data.is_empty() {
            // A chunk of nothing would be the last one.
            return if is_last { self.put_end(None) } else { Ok(()) };
        }
        match &mut self.framing {
            Framing::Known(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(BadBody::Length)?;
                self.ended = *left == 0;
            }
            Framing::Chunked => {
                let _ = write!(self.front, "{:x}\r\n", data.len()); // writing to a Vec does not fail
                self.ended = is_last;
                self.end = if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
            Framing::NoBody | Framing::UntilClose => self.ended = is_last,
        }
        self.data = data;
        Ok(())
    }

    fn put_end<E>(&mut self, trailers: Option<HeaderMap>) -> Result<(), BadBody<E>> {
        self.ended = true;
        match self.framing {
            Framing::Known(1..) => return Err(BadBody::Length),
            Framing::Known(0) | Framing::NoBody | Framing::UntilClose => return Ok(()),
            Framing::Chunked => self.front.extend_from_slice(b"0\r\n"),
        }
        let trailers = trailers.filter(|_| self.takes_trailers);
        for (name, value) in trailers.iter().flatten() {
            // What frames the message is in its head or nowhere (RFC 9110 §6.5.1).
            if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
                write_field(name.as_str(), value.as_bytes(), &mut self.front);
            }
        }
        self.front.extend_from_slice(b"\r\n");
        self.trailers = trailers.filter(|_| !self.begun).map(Box::new);
        Ok(())
    }

    /// Puts data right behind the head if there is room for it: one piece costs the kernel less than two. Then
    /// [`take_back`](Self::take_back) does not find it any more.
    pub(super) fn join(&mut self) {
        let room = self.front.capacity() - self.front.len();
        if !self.front.is_empty() && self.data.len() + self.end.len() <= room {
            self.front.extend_from_slice(&self.data);
            self.front.extend_from_slice(self.end);
            self.data = Bytes::new();
            self.end = &[];
        }
    }

    /// Writes what was taken in.
    pub(super) fn poll_write<IO: Io>(
        &mut self,
        wire: &mut Wire<IO>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !(self.front.is_empty() && self.takes_data()) {
            let front = self.front.get(self.front_written..).unwrap_or_default();
            let written = if self.takes_data() {
                ready!(wire.poll_write(|io| io.poll_write(cx, front)))?
            } else {
                let slices = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(self.end)];
                ready!(wire.poll_write(|io| io.poll_write_vectored(cx, &slices)))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
            self.unflushed = true;
            self.begun = true;
        }
        ready!(wire.poll_write(|io| io.poll_flush(cx)))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let front = written.min(self.front.len() - self.front_written);
        self.front_written += front;
        if self.front_written == self.front.len() {
            self.front.clear();
            self.front_written = 0;
        }
        let data = (written - front).min(self.data.len());
        if data == self.data.len() {
            self.data = Bytes::new(); // lets go of the memory
        } else {
            self.data.advance(data);
        }
        self.end = self.end.get(written - front - data..).unwrap_or_default();
    }
}

pub(super) fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
