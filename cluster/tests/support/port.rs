//! Ports that tests do not take from each other.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// A UDP port of the loopback interface that no other test takes, for as long as this is kept. It
/// is not one of those the system gives out, and the TCP port of the same number is held meanwhile.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _held: TcpListener,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = u16::try_from(std::process::id() % 20_000).unwrap();
        let reserved = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
            .take(20_000)
            .map(|next| 12_000 + (first + next % 20_000) % 20_000)
            .find_map(|port| {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let held = TcpListener::bind(address).ok()?;
                UdpSocket::bind(address).ok().map(|_free| Self { address, _held: held })
            });
        reserved.unwrap()
    }
}
