//! Listeners that share a port among the workers, and with nobody else.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

/// Connections that the kernel holds for us, each listener. It caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds `count` listeners to one address; port 0 is chosen by the kernel. The kernel spreads connections
/// over them.
///
/// # Errors
/// When the address cannot be had. `SO_REUSEPORT` alone would let a second gateway join the first one's
/// port unnoticed; so the first socket is bound without it, which fails if anybody has the port, and gets
/// it only then.
pub fn bind(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let first = socket(addr)?;
    first.bind(&addr.into())?;
    // Two gateways that start at once can both bind; only one of them can listen.
    first.listen(BACKLOG)?;
    first.set_reuse_port(true)?;
    let addr = first.local_addr()?.as_socket().unwrap_or(addr);
    let mut listeners = vec![TcpListener::from(first)];
    for _ in 1..count {
        let next = socket(addr)?;
        next.set_reuse_port(true)?;
        next.bind(&addr.into())?;
        next.listen(BACKLOG)?;
        listeners.push(next.into());
    }
    Ok(listeners)
}

/// Nobody new gets into a listener's queue. Their SYNs are dropped and not refused, so that they try again a second
/// later, when whoever comes next may be there; handshakes that have begun end as they would.
///
/// # Errors
/// When the kernel does not take the filter.
pub(super) fn take_no_more(listener: &impl AsFd) -> io::Result<()> {
    /// Where a TCP header has its flags, and two of them (RFC 9293 §3.1).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    // Classic BPF, as linux/filter.h names it.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections that are still closing must not keep a gateway from coming back.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_workers_share_a_port_and_a_second_gateway_does_not() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 4).unwrap();
        let addr = first[0].local_addr().unwrap();
        assert!(first.iter().all(|listener| listener.local_addr().unwrap() == addr));
        assert_eq!(bind(addr, 4).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpListener::bind(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind(addr, 2).unwrap();
    }

    #[test]
    fn who_has_knocked_is_let_in_and_nobody_else() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().pop().unwrap();
        let addr = listener.local_addr().unwrap();
        let knocked = TcpStream::connect(addr).unwrap();
        take_no_more(&listener).unwrap();
        let late = TcpStream::connect_timeout(&addr, Duration::from_millis(200)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "not refused");
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, knocked.local_addr().unwrap());
        (&knocked).write_all(b"hello").unwrap();
        accepted.set_nonblocking(false).unwrap();
        (&accepted).read_exact(&mut [0; 5]).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_port_that_another_program_has_is_not_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        assert_eq!(bind(addr, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let everywhere = SocketAddr::from(([0, 0, 0, 0], addr.port()));
        assert_eq!(bind(everywhere, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
