//! Frames: what the server sends. A size, a kind, then the data.

use bytes::{BufMut, BytesMut};

use super::super::message::Delivery;
use super::CommandError;

/// Appends a response frame.
pub(in super::super) fn put_response(output: &mut BytesMut, data: &[u8]) {
    put_frame(output, 0, data);
}

/// Appends an error frame: the code, a space, the text.
pub(in super::super) fn put_error(output: &mut BytesMut, error: &CommandError) {
    put_frame(output, 1, format!("{} {}", error.code, error.text).as_bytes());
}

/// Appends the error frame that answers an unknown magic; it has a code only.
pub(in super::super) fn put_bad_protocol(output: &mut BytesMut) {
    put_frame(output, 1, b"E_BAD_PROTOCOL");
}

/// Appends a message frame: timestamp, attempts, ID, body.
pub(in super::super) fn put_message(output: &mut BytesMut, delivery: &Delivery) {
    const HEADER: usize = 8 + 2 + 16;
    let message = &delivery.message;
    put_frame_header(output, 2, HEADER + message.body.len());
    output.put_i64(message.timestamp_nanos);
    output.put_u16(delivery.attempts);
    output.put_slice(&message.id.to_wire());
    output.put_slice(&message.body);
}

fn put_frame(output: &mut BytesMut, kind: u32, data: &[u8]) {
    put_frame_header(output, kind, data.len());
    output.put_slice(data);
}

fn put_frame_header(output: &mut BytesMut, kind: u32, data_bytes: usize) {
    output.reserve(8 + data_bytes);
    // Bodies are limited far below 4 GiB before they get here.
    output.put_u32(u32::try_from(data_bytes + 4).unwrap_or(u32::MAX));
    output.put_u32(kind);
}
