//! One datagram that lives for so many hops, and who sends it back.
//!
//! The kernel puts what routers say of a socket's datagrams into its error queue (ip(7),
//! `IP_RECVERR`), which needs no privilege.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::libc::{
    SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, sock_extended_err, sockaddr_in, sockaddr_in6,
};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Where nobody listens; each hop has a port of its own, as is the custom.
const PORT: u16 = 33_433;
const PAYLOAD: [u8; 32] = [0; 32];

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A router: its life ended here.
    Passed,
    /// The host itself: nobody listens at that port.
    Reached,
    /// A router, or the host: it does not get on.
    Refused(&'static str),
}

/// Send a datagram to `to` that lives for `hops` hops; who answers what, and after how long.
/// `None` is silence.
pub(super) async fn send(
    to: IpAddr,
    hops: u8,
    within: Duration,
) -> io::Result<Option<(IpAddr, Answer, Duration)>> {
    let socket = open(to, hops)?;
    let sent = Instant::now();
    socket.send(&PAYLOAD).await?;
    let answer = async {
        loop {
            socket.ready(Interest::ERROR).await?;
            match socket.try_io(Interest::ERROR, || read(socket.as_raw_fd())) {
                Ok(Some((from, answer))) => return Ok((from, answer, sent.elapsed())),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    timeout(within, answer).await.ok().transpose()
}

fn open(to: IpAddr, hops: u8) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    match to {
        IpAddr::V4(_) => {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(hops))?;
        }
        IpAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(hops))?;
        }
    }
    socket.connect(SocketAddr::new(to, PORT + u16::from(hops)))?;
    UdpSocket::from_std(socket)
}

/// The next of what was said about the socket's datagram; `None` if that is nothing of a router.
fn read(socket: RawFd) -> io::Result<Option<(IpAddr, Answer)>> {
    let (mut returned, mut control) =
        ([0; PAYLOAD.len()], cmsg_space!(sock_extended_err, sockaddr_in6));
    let mut place = [IoSliceMut::new(&mut returned)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket, &mut place, Some(&mut control), flags)?;
    for said in message.cmsgs()? {
        let heard = match said {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                from.and_then(|from| answer_v4(&error).map(|answer| (ip_v4(from), answer)))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => from.and_then(|from| {
                let ip = Ipv6Addr::from(from.sin6_addr.s6_addr);
                answer_v6(&error).map(|answer| (ip.into(), answer))
            }),
            _ => None,
        };
        if heard.is_some() {
            return Ok(heard);
        }
    }
    Ok(None)
}

fn ip_v4(from: sockaddr_in) -> IpAddr {
    Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into()
}

/// RFC 792, RFC 1812 section 5.2.7.
fn answer_v4(error: &sock_extended_err) -> Option<Answer> {
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (origin, _, _) if origin != SO_EE_ORIGIN_ICMP => None,
        (_, 11, 0) => Some(Answer::Passed),
        (_, 3, 3) => Some(Answer::Reached),
        (_, 3, 0 | 6 | 11) => Some(Answer::Refused("no route to the network")),
        (_, 3, 1 | 7 | 12) => Some(Answer::Refused("no route to the host")),
        (_, 3, 9 | 10 | 13) => Some(Answer::Refused("such datagrams are forbidden here")),
        (_, 3, _) => Some(Answer::Refused("it does not get on from here")),
        _ => None,
    }
}

/// RFC 4443 section 3.
fn answer_v6(error: &sock_extended_err) -> Option<Answer> {
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (origin, _, _) if origin != SO_EE_ORIGIN_ICMP6 => None,
        (_, 3, 0) => Some(Answer::Passed),
        (_, 1, 4) => Some(Answer::Reached),
        (_, 1, 0) => Some(Answer::Refused("no route to the network")),
        (_, 1, 3) => Some(Answer::Refused("no route to the host")),
        (_, 1, 1 | 5 | 6) => Some(Answer::Refused("such datagrams are forbidden here")),
        (_, 1, _) => Some(Answer::Refused("it does not get on from here")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(ee_origin: u8, ee_type: u8, ee_code: u8) -> sock_extended_err {
        sock_extended_err {
            ee_errno: 0,
            ee_origin,
            ee_type,
            ee_code,
            ee_pad: 0,
            ee_info: 0,
            ee_data: 0,
        }
    }

    #[test]
    fn what_routers_say_has_its_meaning() {
        assert_eq!(answer_v4(&error(SO_EE_ORIGIN_ICMP, 11, 0)), Some(Answer::Passed));
        assert_eq!(answer_v4(&error(SO_EE_ORIGIN_ICMP, 3, 3)), Some(Answer::Reached));
        assert_eq!(answer_v4(&error(SO_EE_ORIGIN_ICMP, 4, 0)), None);
        assert_eq!(answer_v4(&error(SO_EE_ORIGIN_ICMP6, 3, 3)), None);
        assert_eq!(answer_v6(&error(SO_EE_ORIGIN_ICMP6, 3, 0)), Some(Answer::Passed));
        assert_eq!(answer_v6(&error(SO_EE_ORIGIN_ICMP6, 1, 4)), Some(Answer::Reached));
        let forbidden = Some(Answer::Refused("such datagrams are forbidden here"));
        assert_eq!(answer_v4(&error(SO_EE_ORIGIN_ICMP, 3, 13)), forbidden);
        assert_eq!(answer_v6(&error(SO_EE_ORIGIN_ICMP6, 1, 1)), forbidden);
    }

    #[tokio::test]
    async fn this_host_answers_for_itself() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let heard = send(ip, 9, Duration::from_secs(5)).await.unwrap().unwrap();
            assert_eq!((heard.0, heard.1), (ip, Answer::Reached));
        }
    }
}
