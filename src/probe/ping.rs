//! ICMP echoes, and beside them how long a connection to the SMTP port takes.
//!
//! Echoes leave by datagram sockets, which need no privilege where the system allows its group to
//! use them; the kernel writes the identifier and the checksum.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout_at;

use super::report::{Finding, What, milliseconds};
use crate::client::Grade;

/// Echoes that are sent.
const ECHOES: u16 = 5;
/// From one to the next.
const INTERVAL: Duration = Duration::from_millis(200);
/// After the last one.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(4);
/// Type of an echo request (RFC 792, RFC 4443).
const REQUEST_V4: u8 = 8;
const REQUEST_V6: u8 = 128;
/// Type, code, checksum, identifier, sequence number.
const HEADER_OCTETS: usize = 8;
/// What is sent with it.
const PAYLOAD_OCTETS: usize = 24;

/// Both at once.
pub(super) async fn ping(address: SocketAddr) -> Vec<Finding> {
    let (echoes, port) = tokio::join!(echo(address.ip()), port(address));
    vec![echoes, port]
}

/// How long a connection takes.
pub(super) async fn port(address: SocketAddr) -> Finding {
    let begun = Instant::now();
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
    let took_us = micros(begun.elapsed());
    match connected {
        Ok(Ok(_)) => {
            let words = format!("connected in {}", milliseconds(took_us));
            Finding::new(What::Port { time_us: Some(took_us) }, Some(Grade::Good), &words)
        }
        Ok(Err(error)) => {
            Finding::new(What::Port { time_us: None }, Some(Grade::Bad), &error.to_string())
        }
        Err(_) => {
            let words = format!("no answer within {} seconds", CONNECT.as_secs());
            Finding::new(What::Port { time_us: None }, Some(Grade::Bad), &words)
        }
    }
}

async fn echo(ip: IpAddr) -> Finding {
    let ip = ip.to_canonical();
    let times = match open(ip) {
        Ok(socket) => exchange(&socket, ip).await,
        Err(error) => {
            let nothing =
                What::Echo { sent: 0, received: 0, min_us: None, avg_us: None, max_us: None };
            let words = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "this host does not permit echoes (net.ipv4.ping_group_range)".to_owned()
                }
                _ => format!("no echo can be sent: {error}"),
            };
            return Finding::new(nothing, None, &words);
        }
    };
    judge(&times)
}

fn judge(times_us: &[u64]) -> Finding {
    let received = u32::try_from(times_us.len()).unwrap_or(u32::MAX);
    let sum: u64 = times_us.iter().sum();
    let (min_us, max_us) = (times_us.iter().min().copied(), times_us.iter().max().copied());
    let avg_us = sum.checked_div(u64::from(received));
    let what = What::Echo { sent: u32::from(ECHOES), received, min_us, avg_us, max_us };
    let (Some(min), Some(avg), Some(max)) = (min_us, avg_us, max_us) else {
        let words = format!("none of {ECHOES} came back; some networks drop echoes");
        return Finding::new(what, Some(Grade::Fair), &words);
    };
    let all = received == u32::from(ECHOES);
    let grade = if all { Grade::Good } else { Grade::Fair };
    let [min, avg, max] = [min, avg, max].map(milliseconds);
    let words = format!("{received} of {ECHOES} came back in {min} to {max}, {avg} on average");
    Finding::new(what, Some(grade), &words)
}

fn open(ip: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match ip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(protocol))?;
    // Only what comes from there is received.
    socket.connect(&SocketAddr::new(ip, 0).into())?;
    UdpSocket::from_std(socket.into())
}

/// Send all echoes; the times of those that came back, in microseconds.
async fn exchange(socket: &UdpSocket, ip: IpAddr) -> Vec<u64> {
    let mut sent: Vec<Instant> = Vec::new();
    let mut times: Vec<Option<u64>> = vec![None; usize::from(ECHOES)];
    for sequence in 0..ECHOES {
        // One that cannot leave is lost, as any other; the reason may pass.
        let _ = socket.send(&request(ip, sequence)).await;
        sent.push(Instant::now());
        let is_last = sequence + 1 == ECHOES;
        let until = Instant::now() + if is_last { LAST_WAIT } else { INTERVAL };
        while times.iter().any(Option::is_none) || !is_last {
            let mut answer = [0; HEADER_OCTETS + PAYLOAD_OCTETS];
            match timeout_at(until.into(), socket.recv(&mut answer)).await {
                Ok(Ok(octets)) => {
                    let place = sequence_of(&answer[..octets]).map(usize::from);
                    if let Some(place) = place
                        && let (Some(at), Some(time)) = (sent.get(place), times.get_mut(place))
                    {
                        time.get_or_insert_with(|| micros(at.elapsed()));
                    }
                }
                // A router that refuses says so once for each.
                Ok(Err(_)) if Instant::now() >= until => break,
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(_) => break,
            }
        }
    }
    times.into_iter().flatten().collect()
}

fn request(ip: IpAddr, sequence: u16) -> [u8; HEADER_OCTETS + PAYLOAD_OCTETS] {
    let mut request = [0; HEADER_OCTETS + PAYLOAD_OCTETS];
    request[0] = if ip.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
    request[6..HEADER_OCTETS].copy_from_slice(&sequence.to_be_bytes());
    request
}

fn sequence_of(answer: &[u8]) -> Option<u16> {
    let octets = answer.get(6..HEADER_OCTETS)?;
    octets.try_into().ok().map(u16::from_be_bytes)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_times_are_told() {
        let all = judge(&[100, 200, 300, 400, 1500]);
        assert_eq!(all.grade, Some(Grade::Good));
        assert_eq!(all.words, "5 of 5 came back in 0.10 ms to 1.50 ms, 0.50 ms on average");
        let what = What::Echo {
            sent: 5,
            received: 5,
            min_us: Some(100),
            avg_us: Some(500),
            max_us: Some(1500),
        };
        assert_eq!(all.what, what);
        assert_eq!(judge(&[2_000]).grade, Some(Grade::Fair));
        let none = judge(&[]);
        assert_eq!((none.grade, none.words.contains("none of 5")), (Some(Grade::Fair), true));
    }

    #[test]
    fn an_echo_has_its_number() {
        for (ip, kind) in [("192.0.2.1", 8), ("2001:db8::1", 128)] {
            let request = request(ip.parse().unwrap(), 0x0102);
            assert_eq!((request[0], &request[6..8]), (kind, [1, 2].as_slice()));
            assert_eq!(sequence_of(&request), Some(0x0102));
        }
        assert_eq!(sequence_of(&[0; 7]), None);
    }
}
