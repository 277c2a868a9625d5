//! Listeners that share a port among the workers, and with nobody else.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

/// Connections that the kernel holds for us, each listener. It caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Sockets that listen for the same users. Not blocking.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    /// Somebody else has them as well, who takes whoever waits there.
    pub shared: bool,
}

impl Listeners {
    /// Binds one for each of `workers` to one address; port 0 is chosen by the kernel, which spreads connections over
    /// them.
    ///
    /// # Errors
    /// When the address cannot be had. `SO_REUSEPORT` alone would let a second gateway join the first one's
    /// port unnoticed; so the first socket is bound without it, which fails if anybody has the port, and gets
    /// it only then.
    pub fn bind(addr: SocketAddr, workers: usize) -> io::Result<Self> {
        let first = socket(addr)?;
        first.bind(&addr.into())?;
        // Two gateways that start at once can both bind; only one of them can listen.
        first.listen(BACKLOG)?;
        first.set_reuse_port(true)?;
        let addr = first.local_addr()?.as_socket().unwrap_or(addr);
        let mut sockets = vec![TcpListener::from(first)];
        for _ in 1..workers {
            let next = socket(addr)?;
            next.set_reuse_port(true)?;
            next.bind(&addr.into())?;
            next.listen(BACKLOG)?;
            sockets.push(next.into());
        }
        Ok(Self { sockets, shared: false })
    }

    /// Takes sockets that somebody else has made, and may still have.
    ///
    /// # Errors
    /// When there is none, or one does not listen.
    pub fn adopt(sockets: Vec<TcpListener>, shared: bool) -> io::Result<Self> {
        if sockets.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no socket"));
        }
        for socket in &sockets {
            if !SockRef::from(socket).is_listener()? {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket does not listen"));
            }
            socket.set_nonblocking(true)?;
        }
        Ok(Self { sockets, shared })
    }

    /// The sockets, to be shown to others.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(TcpListener::as_fd)
    }

    /// Where they listen: one address, if it was not somebody else who made them for several.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses =
            self.sockets.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        addresses.dedup();
        Ok(addresses)
    }

    /// What each of `workers` has to look after. Where there are more workers than sockets, some share one.
    ///
    /// # Errors
    /// When file descriptors have run out.
    pub fn for_each_of(self, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
        let mut shares: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for n in self.sockets.len()..workers {
            if let (Some(share), Some(socket)) = (shares.get_mut(n), self.sockets.get(n % self.sockets.len()))
            {
                share.push(socket.try_clone()?);
            }
        }
        for (n, socket) in self.sockets.into_iter().enumerate() {
            if let Some(share) = shares.get_mut(n % workers.max(1)) {
                share.push(socket);
            }
        }
        Ok(shares)
    }

    /// The sockets.
    pub fn into_sockets(self) -> Vec<TcpListener> {
        self.sockets
    }
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

/// Undoes [`take_no_more`]: a gateway that has left may have done that to a listener that it shared.
pub(super) fn take_all(listener: &impl AsFd) {
    let _ = SockRef::from(listener).detach_filter(); // mostly there is none
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

    fn loopback(workers: usize) -> Listeners {
        Listeners::bind("127.0.0.1:0".parse().unwrap(), workers).unwrap()
    }

    #[test]
    fn the_workers_share_a_port_and_a_second_gateway_does_not() {
        let first = loopback(4);
        assert_eq!(first.sockets.len(), 4);
        let addr = first.addresses().unwrap()[0];
        assert_eq!(first.addresses().unwrap(), [addr]);
        assert_eq!(Listeners::bind(addr, 4).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpListener::bind(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Listeners::bind(addr, 2).unwrap();
    }

    #[test]
    fn a_port_that_another_program_has_is_not_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        assert_eq!(Listeners::bind(addr, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let everywhere = SocketAddr::from(([0, 0, 0, 0], addr.port()));
        assert_eq!(Listeners::bind(everywhere, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn every_worker_has_a_socket_and_every_socket_a_worker() {
        let (two, three) = (|| loopback(2), || loopback(3));
        let counts = |listeners: Listeners, workers| {
            let shares = listeners.for_each_of(workers).unwrap();
            shares.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(counts(two(), 2), [1, 1]);
        assert_eq!(counts(two(), 5), [1, 1, 1, 1, 1]);
        assert_eq!(counts(three(), 2), [2, 1]);
        assert_eq!(counts(three(), 1), [3]);
    }

    #[test]
    fn a_socket_that_does_not_listen_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let connected = TcpListener::from(std::os::fd::OwnedFd::from(connected));
        assert!(Listeners::adopt(vec![listener, connected], true).is_err());
        assert!(Listeners::adopt(Vec::new(), true).is_err());
    }

    #[test]
    fn who_has_knocked_is_let_in_and_nobody_else() {
        let listener = loopback(1).into_sockets().pop().unwrap();
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
        let shared = listener.try_clone().unwrap();
        drop(listener);
        take_all(&shared);
        TcpStream::connect_timeout(&addr, Duration::from_secs(5)).expect("closed to everybody");
    }
}
