//! Noticing that nobody is left at the other end of a connection, though no FIN and no reset came.
//!
//! A machine that loses power tells nobody, nor does a router that forgets a connection, and Linux repeats what is not
//! acknowledged for a quarter of an hour. So what was sent has to be acknowledged within a limit, and while nothing is
//! under way the other end is asked for a sign of life. Both are its kernel's to give: a dataserver that takes its time is
//! none the worse, as long as there is room for what is sent to it. One that speaks HTTP/2 has to read whatever comes at
//! once (RFC 9113 §5.2.2); one that speaks HTTP/1 may leave a body or a tunnel unread, and for those the limit is lifted.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Bytes that a kernel has room for, also if nobody reads them.
const ROOM: u64 = 16 * 1024;

/// What the kernel counts keepalives in.
const SECOND: Duration = Duration::from_secs(1);

/// The longest that it waits before one by itself.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// The connection fails when its other end gives no sign of life for so long (RFC 5482, `man 7 tcp`).
pub(super) fn expect_signs(stream: &TcpStream, within: Duration) {
    let socket = SockRef::from(stream);
    let [first, next] = [within / 2, within / 4].map(|wait| wait.clamp(SECOND, LONGEST));
    let keepalive = TcpKeepalive::new().with_time(first).with_interval(next);
    // Without them it takes longer.
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(within));
}

/// Whether the other end may have no room for so much, or for who knows how much, and yet be alive. Linux takes a receiver
/// that has none, and says so, for one that says nothing.
pub(in crate::proxy) fn may_have_no_room(bytes: Option<u64>) -> bool {
    bytes.is_none_or(|bytes| bytes > ROOM)
}

/// Sets or lifts the limit on what is not acknowledged. Keepalives go on.
pub(in crate::proxy) fn limit_unacknowledged(stream: &TcpStream, within: Option<Duration>) {
    let _ = SockRef::from(stream).set_tcp_user_timeout(within);
}
