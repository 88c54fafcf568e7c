//! The inbound side on a real listener, with its mail kept in memory.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mxfleet::config::Limits;
use mxfleet::connection::{
    CertificateFiles, Draft, Full, Inbound, Intake, NotStored, Parts, Service, TlsIdentity, listen,
    serve,
};
use mxfleet::policy::Policy;
use mxfleet::smtp::Envelope;
use mxfleet_cluster::{
    Cluster, Command, Customer, CustomerStatus, Domain, RecipientPolicy, Request, TlsPolicy,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the server calls itself.
pub(crate) const HOSTNAME: &str = "mx1.relay.test";
/// The name in its certificate, when it has one.
pub(crate) const MX_NAME: &str = "mx-a.relay.test";

/// How a server differs from the usual one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) tls: bool,
    pub(crate) spool: SpoolState,
}

/// How the spool feels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SpoolState {
    #[default]
    Well,
    /// Not writable: refused at MAIL.
    Full,
    /// Writable at MAIL, full at DATA.
    FullAtBegin,
    /// Writing fails.
    FailsAtPush,
    /// The sync fails.
    FailsAtCommit,
}

/// A message that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) envelope: Envelope,
    pub(crate) text: Vec<u8>,
}

/// Keeps accepted messages in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) accepted: Arc<Mutex<Vec<Accepted>>>,
    state: SpoolState,
}

pub(crate) struct MemoryDraft {
    text: Vec<u8>,
    state: SpoolState,
}

impl Intake for Memory {
    type Draft = MemoryDraft;

    fn is_writable(&self) -> bool {
        self.state != SpoolState::Full
    }

    fn begin(&self, _declared_octets: u64) -> Result<MemoryDraft, Full> {
        if self.state == SpoolState::FullAtBegin {
            return Err(Full);
        }
        Ok(MemoryDraft { text: Vec::new(), state: self.state })
    }
}

impl Draft for MemoryDraft {
    type Queued = Accepted;

    fn id(&self) -> impl fmt::Display + Send + Sync + 'static {
        "4gTest"
    }

    async fn push(&mut self, text: &[u8]) -> Result<(), NotStored> {
        if self.state == SpoolState::FailsAtPush {
            return Err(NotStored);
        }
        self.text.extend_from_slice(text);
        Ok(())
    }

    async fn commit(self, envelope: Envelope) -> Result<Accepted, NotStored> {
        if self.state == SpoolState::FailsAtCommit {
            return Err(NotStored);
        }
        Ok(Accepted { envelope, text: self.text })
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) accepted: Arc<Mutex<Vec<Accepted>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = tables().await;
        let hostnames = vec![HOSTNAME.to_owned(), MX_NAME.to_owned()];
        let memory = Memory { state: setup.spool, ..Memory::default() };
        let accepted = Arc::clone(&memory.accepted);
        let sink = Arc::clone(&memory.accepted);
        let inbound = Inbound::new(Parts {
            hostname: HOSTNAME.to_owned(),
            limits: Arc::new(setup.limits),
            policy: Arc::new(Policy::new(cluster, hostnames)),
            authenticator: None,
            intake: memory,
            accepted: Arc::new(move |message| sink.lock().unwrap().push(message)),
            tls: setup.tls.then(|| Arc::new(certificate(dir.path()))),
            unlimited_networks: Vec::new(),
            log: None,
            service: Service::default(),
        });
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Arc::new(inbound), stop.clone()));
        Self { address, accepted, stop, served, _dir: dir }
    }
}

/// The customers and domains that every dialog knows.
async fn tables() -> Cluster {
    let cluster = Cluster::detached();
    let customer = |id: &str| {
        Command::CustomerAdd(Customer {
            id: id.to_owned(),
            name: String::new(),
            contacts: Vec::new(),
            status: CustomerStatus::Active,
        })
    };
    let domain = |name: &str, customer: &str| {
        Command::DomainAdd(Domain {
            name: name.to_owned(),
            customer: customer.to_owned(),
            route: "127.0.0.1:25".parse().unwrap(),
            tls: TlsPolicy::Opportunistic,
            connections_max: None,
            recipients: RecipientPolicy::default(),
        })
    };
    let suspend =
        Command::CustomerStatus { id: "sleepy".into(), status: CustomerStatus::Suspended };
    let commands = [
        customer("acme"),
        customer("sleepy"),
        domain("customer.test", "acme"),
        domain("listed.sub.customer.test", "acme"),
        domain("xn--bcher-kva.test", "acme"),
        domain("sleepy.test", "sleepy"),
        suspend,
    ];
    for (id, command) in commands.into_iter().enumerate() {
        let request = Request::new(id as u128, "test", 0, command);
        cluster.propose(request).await.unwrap().unwrap();
    }
    cluster
}

fn certificate(dir: &Path) -> TlsIdentity {
    let made = rcgen::generate_simple_self_signed([MX_NAME.to_owned()]).unwrap();
    let files =
        CertificateFiles { chain: dir.join("certificate.pem"), key: dir.join("certificate.key") };
    std::fs::write(&files.chain, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    TlsIdentity::load(&[files]).unwrap()
}
