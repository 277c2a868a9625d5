//! Listeners that share a port among the workers, and with nobody else.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

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

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections that are still closing must not keep a gateway from coming back.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
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
    fn a_port_that_another_program_has_is_not_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        assert_eq!(bind(addr, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let everywhere = SocketAddr::from(([0, 0, 0, 0], addr.port()));
        assert_eq!(bind(everywhere, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
