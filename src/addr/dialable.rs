//! Where connections to dataservers may lead.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{Networks, OwnListeners, is_dialable};

/// Where connections to dataservers may lead. Asked of an address in a heartbeat, and again of what a host name resolves
/// to: a name is no way around what is refused of an address.
#[derive(Debug, Clone, Default)]
pub struct Dialable {
    own: OwnListeners,
    /// Asked for each new connection and each heartbeat, and never for a request on a kept one.
    allow: Arc<ArcSwapOption<Networks>>,
}

impl Dialable {
    /// Anywhere but to the gateway's own listeners; with `allow`, only in these networks.
    pub fn new(own: OwnListeners, allow: Option<Networks>) -> Self {
        Self { own, allow: Arc::new(ArcSwapOption::new(allow.map(Arc::new))) }
    }

    /// From now on only in these networks; with none, anywhere. It holds for every clone.
    pub fn set_allow(&self, allow: Option<Networks>) {
        self.allow.store(allow.map(Arc::new));
    }

    /// Whether a connection may be made.
    pub fn permits(&self, target: SocketAddr) -> bool {
        is_dialable(target.ip()) && self.allows(target.ip()) && !self.is_own(target)
    }

    /// Whether it would lead to the gateway itself.
    pub fn is_own(&self, target: SocketAddr) -> bool {
        self.own.contains(target)
    }

    /// Whether it is in the networks that are allowed.
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.allow.load().as_ref().is_none_or(|allow| allow.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_own_or_not_allowed_is_not_dialled() {
        let own = OwnListeners::new(vec!["127.0.0.1:9000".parse().unwrap()]);
        let allow = Networks::new(vec!["loopback".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
        let permits = |dialable: &Dialable, target: &str| dialable.permits(target.parse().unwrap());
        let anywhere = Dialable::new(own.clone(), None);
        let allowed = Dialable::new(own, Some(allow));
        for (target, open, listed) in [
            ("127.0.0.1:10001", true, true),
            ("127.0.0.1:9000", false, false),
            ("169.254.169.254:80", false, false),
            ("10.1.2.3:80", true, true),
            ("192.0.2.1:80", true, false),
            ("[::ffff:10.1.2.3]:80", true, true),
        ] {
            assert_eq!((permits(&anywhere, target), permits(&allowed, target)), (open, listed), "{target}");
        }
        let clone = allowed.clone();
        allowed.set_allow(None);
        assert!(permits(&clone, "192.0.2.1:80"));
    }
}
