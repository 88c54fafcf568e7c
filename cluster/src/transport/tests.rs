//! Peers that break the rules, over real sockets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use openraft::raft::VoteRequest;
use quinn::{ClientConfig, Connection, Endpoint};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::serve::HANDSHAKES_MAX;
use super::tls::{self, Credentials};
use super::wire::Ask;
use super::*;
use crate::authority::{self, Authority, node_name};
use crate::codec::{BODY_OCTETS_MAX, HEAD_OCTETS};
use crate::raft::Vote;

const FLEET: u128 = 7;
const PATIENCE: Duration = Duration::from_secs(30);

/// Certificates are checked against the system's clock.
fn now_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "rustls asks the system, too")]
    let now = std::time::SystemTime::now();
    u64::try_from(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Answers `Done`. Node 9 was removed; 127.0.0.2 is a host.
struct Stub;

impl Handler for Stub {
    fn admits(&self, from: NodeId) -> bool {
        from != 9
    }

    fn knows(&self, address: IpAddr) -> bool {
        address == IpAddr::from([127, 0, 0, 2])
    }

    fn answer(&self, _from: NodeId, _call: Call, _rest: Rest) -> BoxFuture<'_, Answer> {
        Box::pin(async { Answer::Done })
    }

    fn token_is_good(&self, _hash: &Hash) -> bool {
        false
    }

    fn join(&self, _joining: Joining) -> BoxFuture<'_, Answer> {
        Box::pin(async { Answer::Done })
    }
}

fn credentials(authority: &Authority, node: NodeId) -> Arc<Credentials> {
    let key = authority::new_key().unwrap();
    let certificate = authority.sign(&authority::request(&key).unwrap(), node, now_ms()).unwrap();
    let key = PrivateKeyDer::from(key);
    Credentials::new(authority.certificate().clone(), certificate, key).unwrap()
}

/// Node 1 of a fleet, serving.
struct Served {
    authority: Authority,
    endpoint: Arc<QuicEndpoint>,
    address: SocketAddr,
}

impl Served {
    fn begin() -> Self {
        let authority = Authority::found(FLEET, now_ms()).unwrap();
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let own = credentials(&authority, 1);
        let endpoint = Arc::new(QuicEndpoint::bind(listen, &own, &[1; 64], true).unwrap());
        let address = endpoint.local_address().unwrap();
        let serving = Arc::clone(&endpoint);
        tokio::spawn(async move { serving.serve(FLEET, 1, Arc::new(Stub)).await });
        Self { authority, endpoint, address }
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.endpoint.refusals().counts().filter(|(_, count)| *count > 0).collect()
    }

    /// Wait until exactly this was counted.
    async fn counted(&self, expected: &[(&'static str, u64)]) {
        let expected = expected.iter().copied().collect();
        let come = async {
            while self.counts() != expected {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = timeout(PATIENCE, come).await.is_ok();
        assert!(in_time, "{:?}, not {expected:?}", self.counts());
    }

    async fn connect(&self, node: NodeId) -> Connection {
        let client = credentials(&self.authority, node).client().unwrap();
        connect(self.address, Ipv4Addr::LOCALHOST, ClientConfig::new(Arc::new(client)))
            .await
            .unwrap()
    }
}

async fn connect(
    to: SocketAddr,
    from: Ipv4Addr,
    config: ClientConfig,
) -> Result<Connection, quinn::ConnectionError> {
    let endpoint = Endpoint::client((from, 0).into()).unwrap();
    endpoint.connect_with(config, to, &node_name(1)).unwrap().await
}

fn call(ask: Ask) -> Call {
    Call { fleet: FLEET, from: 2, to: 1, ask }
}

/// Send `bytes` as a call of node 2; what came back, if anything.
async fn send(served: &Served, bytes: &[u8]) -> Option<Answer> {
    let connection = served.connect(2).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let answer = receive.read_to_end(1000).await.ok()?;
    Some(Answer::decode(&answer).unwrap())
}

#[tokio::test]
async fn a_call_that_is_not_what_it_says_is_refused_and_counted_by_its_reason() {
    let served = Served::begin();
    let good = call(Ask::Members).encode().unwrap();
    assert!(matches!(send(&served, &good).await, Some(Answer::Done)));
    let with = |at: usize, octets: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + octets.len()].copy_from_slice(octets);
        bytes
    };
    let too_large = u32::try_from(BODY_OCTETS_MAX + 1).unwrap().to_be_bytes();
    let other = |fleet, from, to| Call { fleet, from, to, ask: Ask::Members }.encode().unwrap();
    let vote = |of| Ask::Vote(VoteRequest { vote: Vote::new(4, of), last_log_id: None });
    assert!(matches!(send(&served, &call(vote(2)).encode().unwrap()).await, Some(Answer::Done)));
    let bad = [
        (with(8, &[0, 0, 200, 0]), "length"),
        (with(8, &too_large), "length"),
        (good[..good.len() - 1].to_vec(), "length"),
        (Vec::new(), "length"),
        (with(4, &[9]), "version"),
        ([good.as_slice(), b"x"].concat(), "trailing"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "malformed"),
        (with(HEAD_OCTETS, &[77]), "malformed"),
        (other(8, 2, 1), "fleet"),
        (other(FLEET, 3, 1), "identity"),
        (other(FLEET, 2, 3), "identity"),
        (call(vote(3)).encode().unwrap(), "identity"),
    ];
    let mut expected = BTreeMap::new();
    for (bytes, reason) in bad {
        assert!(send(&served, &bytes).await.is_none(), "{reason} was answered");
        *expected.entry(reason).or_insert(0) += 1;
    }
    served.counted(&expected.into_iter().collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn who_has_no_certificate_of_the_fleet_or_was_removed_is_refused() {
    let served = Served::begin();
    let removed = served.connect(9).await;
    let (mut stream, _receive) = removed.open_bi().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    removed.closed().await;

    let stranger = Authority::found(FLEET, now_ms()).unwrap();
    let foreign = ClientConfig::new(Arc::new(credentials(&stranger, 2).client().unwrap()));
    assert!(connect(served.address, Ipv4Addr::LOCALHOST, foreign).await.is_err());

    let fingerprint = authority::hash(served.authority.certificate());
    let nameless = tls::nameless(fingerprint, tls::NODE_PROTOCOL).unwrap();
    let nameless = ClientConfig::new(Arc::new(nameless));
    let nameless = connect(served.address, Ipv4Addr::LOCALHOST, nameless).await.unwrap();
    nameless.closed().await;

    let host = crate::state::NewHost {
        name: "mx2".to_owned(),
        address: "192.0.2.1:1".to_owned(),
        version: String::new(),
        key: [0; 32],
        speaks: 1,
    };
    let joined = join(served.address, fingerprint, &[1; 32], &host, &[]).await;
    assert!(matches!(joined, Err(JoinError::Refused(_))), "{joined:?}");
    let expected = [("certificate", 1), ("handshake", 1), ("removed", 1), ("token", 1)];
    served.counted(&expected).await;
}

/// Passes on what goes to `to`, and of what comes back only the demand to show one's address: so
/// that no handshake through it ever ends.
async fn tarpit(to: SocketAddr) -> SocketAddr {
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = outside.local_addr().unwrap();
    tokio::spawn(async move {
        let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (mut there, mut back) = ([0; 2048], [0; 2048]);
        let mut client = address;
        loop {
            tokio::select! {
                got = outside.recv_from(&mut there) => {
                    let (octets, from) = got.unwrap();
                    client = from;
                    inside.send_to(&there[..octets], to).await.unwrap();
                }
                got = inside.recv_from(&mut back) => {
                    let octets = got.unwrap().0;
                    let is_retry = back[0] & 0xf0 == 0xf0; // RFC 9000, 17.2.5
                    if is_retry {
                        outside.send_to(&back[..octets], client).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn handshakes_that_never_end_are_bounded_and_do_not_keep_hosts_out() {
    let served = Served::begin();
    let tarpit = tarpit(served.address).await;
    let client = || {
        let client = credentials(&served.authority, 2).client().unwrap();
        ClientConfig::new(Arc::new(client))
    };
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let flood = (0..2 * HANDSHAKES_MAX)
        .map(|_| endpoint.connect_with(client(), tarpit, &node_name(1)).unwrap());
    let flood: Vec<_> = flood.collect();
    let busy = async {
        while served.counts().get("busy").is_none_or(|count| *count < 10) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, busy).await.unwrap();
    let host = connect(served.address, [127, 0, 0, 2].into(), client());
    let host = timeout(PATIENCE, host).await.unwrap().unwrap();
    assert!(host.close_reason().is_none());
    drop(flood);
    // A stranger is let in again once the handshakes were given up.
    let stranger = connect(served.address, Ipv4Addr::LOCALHOST, client());
    timeout(PATIENCE, stranger).await.unwrap().unwrap();
}
