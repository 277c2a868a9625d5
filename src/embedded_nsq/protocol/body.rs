//! What follows a command line: one body with its size before it, or a batch of them.

use super::super::limits::Limits;
use super::CommandError;

/// The messages of an MPUB body: a count, then each message with its size before it. The HTTP
/// `/mpub?binary=true` body has the same form.
pub(in super::super) fn split_batch<'a>(
    body: &'a [u8],
    limits: &Limits,
) -> Result<Vec<&'a [u8]>, CommandError> {
    let message_limit = limits.message_bytes;
    let bad_body = |text| CommandError::fatal("E_BAD_BODY", text);
    let bad_message = |text| CommandError::fatal("E_BAD_MESSAGE", text);

    let (count, mut rest) =
        size_prefix(body).ok_or_else(|| bad_body("MPUB failed to read message count".to_owned()))?;
    let count = usize::try_from(count)
        .ok()
        .filter(|count| (1..=limits.batch_messages).contains(count))
        .ok_or_else(|| bad_body(format!("MPUB invalid message count {count}")))?;

    // A message takes five bytes at least, so a count is never believed beyond the body.
    let mut messages = Vec::with_capacity(count.min(rest.len() / 5));
    for index in 0..count {
        let (size, after) = size_prefix(rest)
            .ok_or_else(|| bad_message(format!("MPUB failed to read message({index}) body size")))?;
        let bytes = usize::try_from(size)
            .ok()
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| bad_message(format!("MPUB invalid message({index}) body size {size}")))?;
        if bytes > message_limit {
            return Err(bad_message(format!("MPUB message too big {bytes} > {message_limit}")));
        }
        let (message, after) = after
            .split_at_checked(bytes)
            .ok_or_else(|| bad_message("MPUB failed to read message body".to_owned()))?;
        messages.push(message);
        rest = after;
    }
    Ok(messages)
}

/// What follows a command line.
pub(super) struct Body<'a> {
    pub(super) rest: &'a [u8],
    pub(super) message_limit: usize,
    pub(super) limit: usize,
}

impl<'a> Body<'a> {
    /// The body with a size before it. The size is judged as soon as it is there, before the
    /// bytes that it announces are waited for.
    pub(super) fn sized(
        &self,
        verb: &str,
        code: &'static str,
        what: &str,
        limit: usize,
    ) -> Result<Option<&'a [u8]>, CommandError> {
        let Some((size, after)) = size_prefix(self.rest) else {
            return Ok(None);
        };
        let Some(bytes) = usize::try_from(size).ok().filter(|bytes| *bytes > 0) else {
            let what = if what == "message" { "message body" } else { what };
            return Err(CommandError::fatal(code, format!("{verb} invalid {what} size {size}")));
        };
        if bytes > limit {
            return Err(CommandError::fatal(code, format!("{verb} {what} too big {bytes} > {limit}")));
        }
        Ok(after.get(..bytes))
    }
}

fn size_prefix(input: &[u8]) -> Option<(i32, &[u8])> {
    let (size, rest) = input.split_first_chunk::<4>()?;
    Some((i32::from_be_bytes(*size), rest))
}
