//! A message, its identity, and one channel's copy of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::budget::Charge;

/// A message's identity: sixteen lower-case hexadecimal digits on the wire. They count upwards,
/// so a smaller one is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MessageId(pub(super) u64);

/// An identity as it stands on the wire.
pub(super) type WireId = [u8; 16];

/// A published message, shared by every channel that has a copy of it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: MessageId,
    /// Wall clock at publication, nanoseconds since 1970.
    pub(super) timestamp_nanos: i64,
    pub(super) body: Bytes,
    /// How long each channel holds it back before the first delivery.
    pub(super) delay: Duration,
    /// Its share of the bytes the broker may hold; ends with the last copy.
    pub(super) _charge: Charge,
}

/// One channel's copy: the shared message, and how often this channel has delivered it.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    pub(super) attempts: u16,
}

impl MessageId {
    pub(super) fn to_wire(self) -> WireId {
        let mut wire = [b'0'; 16];
        let mut rest = self.0;
        for digit in wire.iter_mut().rev() {
            // The mask leaves 0 to 15.
            let nibble = (rest & 0xf) as u8;
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            rest >>= 4;
        }
        wire
    }

    /// `None` for what no broker of ours ever issued.
    pub(super) fn from_wire(wire: WireId) -> Option<Self> {
        wire.iter()
            .try_fold(0_u64, |id, digit| {
                let nibble = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(id << 4 | u64::from(nibble))
            })
            .map(Self)
    }
}

impl Delivery {
    pub(super) fn first(message: &Arc<Message>) -> Self {
        Self { message: Arc::clone(message), attempts: 0 }
    }

    pub(super) fn id(&self) -> MessageId {
        self.message.id
    }
}

/// Nanoseconds since 1970 by the wall clock: for timestamps that leave the process, nothing else.
pub(super) fn wall_clock_nanos() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_sixteen_lower_case_digits() {
        assert_eq!(&MessageId(0xab).to_wire(), b"00000000000000ab");
        assert_eq!(&MessageId(u64::MAX).to_wire(), b"ffffffffffffffff");
        assert_eq!(MessageId::from_wire(*b"00000000000000AB"), None);
        assert_eq!(MessageId::from_wire(*b"not hexadecimal!"), None);
    }

    proptest! {
        #[test]
        fn ids_survive_the_wire(id: u64) {
            prop_assert_eq!(MessageId::from_wire(MessageId(id).to_wire()), Some(MessageId(id)));
        }
    }
}
