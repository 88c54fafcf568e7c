//! The composition root: build every stage, start, announce, drain. The only file that knows them
//! all.

use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use anyhow::Context as _;
use mxfleet_cluster::Cluster;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::blacklist::Reports;
use crate::client::{Client, Roots};
use crate::config::{Config, LogFormat};
use crate::connection::{self, Accepted, CertificateFiles, Inbound, Parts, Service, TlsIdentity};
use crate::fleet::{self, Place};
use crate::http::admin::{self, Admin};
use crate::http::public::{self, Health};
use crate::http::rotation::RotationAdmin;
use crate::http::tables::Tables;
use crate::policy::Policy;
use crate::rotation::{self, Rotation, TrafficMeter};
use crate::route::{Dns, Own, Router, interface_addresses};
use crate::spool::{OsFs, Queued, Recovered, Spool, SpoolConfig};
use crate::system::pid_file;
use crate::telemetry::delivery_log::{DeliveryLog, Format};
use crate::telemetry::journal::Journal;
use crate::worker::{self, Deliveries};

/// The delivery log names senders and recipients: for the node's user and its group.
const LOG_MODE: u32 = 0o640;

/// A node whose stages are built and not yet started.
struct Node {
    cluster: Cluster,
    spool: Spool,
    inbound: Arc<Inbound<Spool>>,
    deliveries: Deliveries,
    reports: Reports,
    admin: Arc<Admin>,
    tls: Option<Arc<TlsIdentity>>,
    service: Service,
    rotation: Rotation,
}

/// Everything that listens, bound before anything is started.
struct Listeners {
    smtp: Vec<TcpListener>,
    admin: UnixListener,
    http: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

type Tasks = JoinSet<anyhow::Result<()>>;

/// Run a node until SIGTERM or SIGINT, then drain it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let data_dir = &config.node.data_dir;
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot make {}", data_dir.display()))?;
    let mut signals = Signals::new()?;
    let listeners = listen(&config).await?;
    let place = fleet::take_part(&config).await?;
    // Without the tables every recipient would be refused for good.
    tokio::select! {
        () = place.cluster.settled() => {}
        why = place.cluster.failed() => anyhow::bail!(why),
        () = signals.told_to_stop() => return Ok(()),
    }
    let (node, recovered) = Node::build(&config, place)?;
    pid_file::write(data_dir)
        .with_context(|| format!("cannot write into {}", data_dir.display()))?;
    let stop = CancellationToken::new();
    let mut tasks = Tasks::new();
    node.start(listeners, recovered, &stop, &mut tasks);
    tracing::info!(
        smtp = ?config.smtp.listen,
        admin = %config.admin_socket.display(),
        "node {} ({}) accepts mail", config.node.name, config.node.hostname
    );
    let mut outcome = wait_for_the_end(&node, &mut signals, &mut tasks).await;
    tracing::info!("draining: no new mail; running transactions finish");
    stop.cancel();
    // Whatever breaks now, the rest is still ended in order; the first fault is the one told.
    while let Some(ended) = tasks.join_next().await {
        outcome = outcome.and(ended.context("a part of the node broke").and_then(|ended| ended));
    }
    node.reports.flush().await;
    outcome = outcome.and(node.spool.close().await.map_err(Into::into));
    node.cluster.shutdown().await;
    outcome = outcome.and(pid_file::remove(data_dir).map_err(Into::into));
    tracing::info!("stopped");
    outcome
}

/// What an operator or a supervisor tells the process. Taken over before anything else, since a
/// signal that nobody listens for kills.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn told_to_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Node {
    fn build(config: &Config, place: Place) -> anyhow::Result<(Self, Recovered)> {
        let Place { cluster, node_id } = place;
        let limits = Arc::new(config.limits.clone());
        let (data_dir, hostname) = (&config.node.data_dir, &config.node.hostname);
        let spool_config =
            SpoolConfig { dir: data_dir.join("spool"), node_id, limits: Arc::clone(&limits) };
        let (spool, recovered) = Spool::open(spool_config, Arc::new(OsFs))?;
        let outbox = data_dir.join("outbox");
        let reports = Reports::open(&outbox, u64::from(node_id), &spool.ids(), &limits)?;
        let journal = Journal::start(&data_dir.join("journal"), limits.journal_lines_max)
            .context("cannot write the journal")?;
        let own = Own {
            names: [hostname.clone()].into(),
            addresses: interface_addresses(),
            listeners: config.smtp.listen.clone(),
            allow_loopback: config.delivery.allow_loopback_routes,
        };
        let dns = Dns::new(&config.dns_servers, &limits)?;
        let mx_port = config.delivery.mx_port;
        let deliveries = Deliveries::new(worker::Parts {
            spool: spool.clone(),
            cluster: cluster.clone(),
            router: Router::new(cluster.clone(), dns, own.clone(), mx_port, &limits),
            client: Client::new(hostname.clone(), Arc::clone(&limits), &roots(config))?,
            reports: reports.clone(),
            journal: journal.clone(),
            log: delivery_log(config)?,
            limits: Arc::clone(&limits),
        });
        let policy = Arc::new(Policy::new(cluster.clone(), vec![hostname.clone()], None));
        let tls = tls_identity(config)?;
        let service = Service::default();
        let rotation = Rotation::new(rotation::Parts {
            cluster: cluster.clone(),
            spool: spool.clone(),
            deliveries: deliveries.clone(),
            service: service.clone(),
            node: u64::from(node_id),
            tsig_key_file: config.tsig_key_file.clone(),
        });
        let inbound = Inbound::new(Parts {
            hostname: hostname.clone(),
            limits,
            policy: Arc::clone(&policy),
            intake: spool.clone(),
            accepted: accepted(deliveries.clone(), rotation.traffic()),
            tls: tls.clone(),
            unlimited_networks: config.smtp.exempt_networks.clone(),
            service: service.clone(),
        });
        let admin = Admin {
            rotation: RotationAdmin::new(cluster.clone(), own.allow_loopback),
            tables: Tables::new(cluster.clone(), Arc::new(own)),
            policy,
            deliveries: deliveries.clone(),
            cluster: cluster.clone(),
            reports: reports.clone(),
            journal,
        };
        let (inbound, admin) = (Arc::new(inbound), Arc::new(admin));
        let node =
            Self { cluster, spool, inbound, deliveries, reports, admin, tls, service, rotation };
        Ok((node, recovered))
    }

    /// Start everything. A message recovered from the spool is scheduled before new ones come.
    fn start(
        &self,
        listeners: Listeners,
        recovered: Recovered,
        stop: &CancellationToken,
        tasks: &mut Tasks,
    ) {
        self.deliveries.recover(recovered);
        let (deliveries, token) = (self.deliveries.clone(), stop.clone());
        tasks.spawn(async move {
            deliveries.run(token).await;
            Ok(())
        });
        let reports = self.reports.clone();
        let report = reports.run(self.cluster.clone(), self.spool.clone(), stop.clone());
        tasks.spawn(async move {
            report.await;
            Ok(())
        });
        let rotation = self.rotation.clone().run(stop.clone());
        tasks.spawn(async move {
            rotation.await;
            Ok(())
        });
        for listener in listeners.smtp {
            let serve = connection::serve(listener, Arc::clone(&self.inbound), stop.clone());
            tasks.spawn(async move {
                serve.await;
                Ok(())
            });
        }
        let (admin, token) = (Arc::clone(&self.admin), stop.clone());
        tasks.spawn(async move { Ok(admin::serve(listeners.admin, admin, token).await?) });
        if let Some(listener) = listeners.http {
            let health = Health {
                spool: self.spool.clone(),
                draining: stop.clone(),
                service: self.service.clone(),
            };
            let token = stop.clone();
            tasks.spawn(async move { Ok(public::serve_public(listener, health, token).await?) });
        }
        if let Some(listener) = listeners.metrics {
            let token = stop.clone();
            tasks.spawn(async move { Ok(public::serve_metrics(listener, token).await?) });
        }
    }

    /// SIGHUP: certificates are read again; what is wrong with them leaves the old ones in use.
    fn reload(&self) {
        let Some(tls) = &self.tls else { return };
        match tls.reload() {
            Ok(()) => tracing::info!("certificates read again"),
            Err(error) => tracing::error!("the old certificates stay in use: {error}"),
        }
    }
}

/// What becomes of a message that is safe.
fn accepted(deliveries: Deliveries, traffic: TrafficMeter) -> Accepted<Queued> {
    Arc::new(move |queued: Queued| {
        traffic.count(&queued.envelope);
        deliveries.accept(queued);
    })
}

/// Wait for SIGTERM or SIGINT; reload at SIGHUP. A part that ends by itself ends the node.
async fn wait_for_the_end(
    node: &Node,
    signals: &mut Signals,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hang_up.recv() => node.reload(),
            why = node.cluster.failed() => anyhow::bail!(why),
            Some(ended) = tasks.join_next() => {
                ended.context("a part of the node broke")??;
                anyhow::bail!("a part of the node ended by itself");
            }
        }
    }
}

async fn listen(config: &Config) -> anyhow::Result<Listeners> {
    let mut smtp = Vec::new();
    for address in &config.smtp.listen {
        let listener = connection::listen(*address);
        smtp.push(listener.with_context(|| format!("cannot listen for SMTP on {address}"))?);
    }
    let socket = &config.admin_socket;
    let admin = admin::bind(socket)
        .with_context(|| format!("cannot listen for admin calls on {}", socket.display()))?;
    let http = bind(config.http, "HTTP").await?;
    let metrics = bind(config.metrics, "metrics").await?;
    Ok(Listeners { smtp, admin, http, metrics })
}

async fn bind(
    address: Option<std::net::SocketAddr>,
    what: &str,
) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    Ok(Some(listener.with_context(|| format!("cannot listen for {what} on {address}"))?))
}

fn roots(config: &Config) -> Roots {
    config.delivery.ca_file.clone().map_or(Roots::System, Roots::File)
}

fn tls_identity(config: &Config) -> anyhow::Result<Option<Arc<TlsIdentity>>> {
    if config.smtp.certificates.is_empty() {
        return Ok(None);
    }
    let files = config.smtp.certificates.iter();
    let files = files.map(|c| CertificateFiles { chain: c.cert.clone(), key: c.key.clone() });
    Ok(Some(Arc::new(TlsIdentity::load(files.collect())?)))
}

fn delivery_log(config: &Config) -> anyhow::Result<DeliveryLog> {
    let format = match config.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let writer: Box<dyn std::io::Write + Send> = match &config.log.deliveries {
        None => Box::new(std::io::stdout()),
        Some(path) => {
            let file =
                std::fs::OpenOptions::new().create(true).append(true).mode(LOG_MODE).open(path);
            Box::new(file.with_context(|| format!("cannot write {}", path.display()))?)
        }
    };
    Ok(DeliveryLog::start(format, writer, config.limits.delivery_log_lines_max)?)
}
