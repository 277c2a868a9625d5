//! What is on its way to the user: never more than a head and one frame of a body.

use std::io::{self, IoSlice, Write};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, header};

use super::answer::{Framing, write_field};
use super::transport::{Io, State};

/// Bytes to be written: a head or a chunk's size, data, and what ends the data.
#[derive(Default)]
pub(super) struct Output {
    /// Of `front` so much is written.
    front_written: usize,
    front: Vec<u8>,
    data: Bytes,
    end: &'static [u8],
    /// Something was written that the socket may hold back, as TLS does.
    unflushed: bool,
}

impl Output {
    /// What is to be written before the data.
    pub(super) fn front(&mut self) -> &mut Vec<u8> {
        &mut self.front
    }

    /// Whether there is room for a frame of the body.
    pub(super) fn takes_data(&self) -> bool {
        self.data.is_empty() && self.end.is_empty()
    }

    /// Whether everything is out.
    pub(super) fn is_empty(&self) -> bool {
        !self.unflushed && self.is_written()
    }

    fn is_written(&self) -> bool {
        self.front.is_empty() && self.takes_data()
    }

    /// Adds a frame of the body, which is not empty.
    pub(super) fn put_data(&mut self, data: Bytes, framing: Framing, is_last: bool) {
        if framing == Framing::Chunked {
            let _ = write!(self.front, "{:x}\r\n", data.len()); // writing to a Vec does not fail
            self.end = if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
        }
        self.data = data;
    }

    /// Adds the end of a chunked body.
    pub(super) fn put_end(&mut self, trailers: Option<&HeaderMap>) {
        self.front.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            // What frames the message is in its head or nowhere (RFC 9110 §6.5.1).
            if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
                write_field(name.as_str(), value.as_bytes(), &mut self.front);
            }
        }
        self.front.extend_from_slice(b"\r\n");
    }

    /// Writes all there is.
    pub(super) fn poll_write<IO: Io>(
        &mut self,
        state: &mut State<IO>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let front = self.front.get(self.front_written..).unwrap_or_default();
            let written = if self.takes_data() {
                ready!(state.poll_io(|io| io.poll_write(cx, front)))?
            } else {
                let slices = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(self.end)];
                ready!(state.poll_io(|io| io.poll_write_vectored(cx, &slices)))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
            self.unflushed = true;
        }
        ready!(state.poll_io(|io| io.poll_flush(cx)))?;
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
