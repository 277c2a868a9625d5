//! What is handed over, and its form: the length of a head, the head as JSON, a byte with each socket, the live set.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// The only form that is understood.
const VERSION: u64 = 1;

/// Longest head, in bytes: the names of as many sockets as workers may have, and some.
const MAX_HEAD: u32 = 64 * 1024;

/// Most sockets: a process may have no more open by default.
const MAX_SOCKETS: usize = 1100;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Users.
    Listen,
    /// The admin paths.
    Admin,
    /// The embedded NSQ: nsqd's TCP protocol.
    NsqTcp,
    /// nsqd's HTTP.
    NsqHttp,
    /// nsqlookupd's HTTP.
    NsqLookup,
    /// Whoever takes over next.
    Takeover,
}

/// What a gateway leaves.
#[derive(Debug, Default)]
pub struct Estate {
    /// The service manager has the sockets as well.
    pub shared: bool,
    /// Sockets that listen.
    pub sockets: Vec<(Role, OwnedFd)>,
    /// The live set, as it stands in a snapshot.
    pub set: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u64,
    shared: bool,
    sockets: Vec<Role>,
    set_bytes: u64,
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

pub(super) fn send(mut stream: &UnixStream, estate: &Estate) -> io::Result<()> {
    let head = serde_json::to_vec(&Head {
        version: VERSION,
        shared: estate.shared,
        sockets: estate.sockets.iter().map(|(role, _)| *role).collect(),
        set_bytes: u64::try_from(estate.set.len()).map_err(invalid)?,
    })?;
    stream.write_all(&u32::try_from(head.len()).map_err(invalid)?.to_be_bytes())?;
    stream.write_all(&head)?;
    for (_, socket) in &estate.sockets {
        let sockets = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    }
    stream.write_all(&estate.set)
}

/// `set_bytes` is the most that the set may have.
pub(super) fn receive(mut stream: &UnixStream, set_bytes: u64) -> io::Result<Estate> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_HEAD {
        return Err(invalid("its head is too long"));
    }
    let mut head = Vec::new();
    stream.take(length.into()).read_to_end(&mut head)?;
    let head: Head = serde_json::from_slice(&head).map_err(|error| invalid(format!("its head: {error}")))?;
    if head.version != VERSION {
        return Err(invalid(format!("it speaks version {}, and not {VERSION}", head.version)));
    }
    if head.sockets.len() > MAX_SOCKETS || head.set_bytes > set_bytes {
        return Err(invalid("it has more than there may be"));
    }
    let mut sockets = Vec::with_capacity(head.sockets.len());
    for role in head.sockets {
        sockets.push((role, receive_socket(stream)?));
    }
    let mut set = Vec::new();
    stream.take(head.set_bytes).read_to_end(&mut set)?;
    Ok(Estate { shared: head.shared, sockets, set })
}

fn receive_socket(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    sockets.flatten().next().ok_or_else(|| invalid("a socket is missing"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    fn through(estate: &Estate, set_bytes: u64) -> io::Result<Estate> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = send(&ours, estate);
            });
            receive(&theirs, set_bytes)
        })
    }

    #[test]
    fn what_is_sent_is_received() {
        let listeners: Vec<_> = (0..20).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let of = |listener: &TcpListener| OwnedFd::from(listener.try_clone().unwrap());
        let mut sockets: Vec<_> = listeners.iter().map(|listener| (Role::Listen, of(listener))).collect();
        sockets.push((Role::NsqHttp, of(&listeners[0])));
        let estate = Estate { shared: true, sockets, set: vec![7; 300_000] };
        let received = through(&estate, 300_000).unwrap();
        assert_eq!((received.shared, &received.set), (true, &estate.set));
        assert_eq!(received.sockets.len(), 21);
        for ((role, socket), (expected, sent)) in received.sockets.into_iter().zip(estate.sockets) {
            let addr = |fd: OwnedFd| TcpListener::from(fd).local_addr().unwrap();
            assert_eq!((role, addr(socket)), (expected, addr(sent)));
        }
        assert!(through(&Estate { set: vec![7; 11], ..Estate::default() }, 10).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_estate_or_an_error(head in proptest::collection::vec(any::<u8>(), 0..200), length: Option<u32>) {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let length = length.unwrap_or(u32::try_from(head.len()).unwrap());
            ours.write_all(&length.to_be_bytes()).unwrap();
            ours.write_all(&head).unwrap();
            drop(ours);
            prop_assert!(receive(&theirs, 1000).is_err());
        }
    }
}
