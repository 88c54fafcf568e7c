//! The composition root: build every stage, start, announce, drain. The only file that knows them
//! all.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mxfleet_cluster::Cluster;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authentication::Authenticator;
use crate::blacklist::Reports;
use crate::client::{Client, Roots};
use crate::config::{Config, Limits, LogFormat};
use crate::connection::{self, CertificateFiles, Inbound, Parts, TlsIdentity};
use crate::fleet::{self, Place};
use crate::http::admin::{self, Admin};
use crate::http::metrics::{self, Sources};
use crate::http::public::{self, Health};
use crate::http::rotation::RotationAdmin;
use crate::http::tables::Tables;
use crate::policy::{Policy, Watch};
use crate::rotation::{DnsPublisher, TrafficMeter};
use crate::route::{Dns, Own, Router, interface_addresses};
use crate::spool::{OsFs, Recovered, Spool, SpoolConfig};
use crate::system::pid_file;
use crate::telemetry::delivery_log::{self, DeliveryLog, Format, Target};
use crate::telemetry::journal::Journal;
use crate::worker::{self, Deliveries};

/// A node whose stages are built and not yet started.
struct Node {
    cluster: Cluster,
    spool: Spool,
    inbound: Arc<Inbound<Spool>>,
    deliveries: Deliveries,
    reports: Reports,
    admin: Arc<Admin>,
    tls: Option<Arc<TlsIdentity>>,
    log: DeliveryLog,
    journal: Journal,
    limits: Arc<Limits>,
    traffic: TrafficMeter,
    dns: DnsPublisher,
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
    let listeners = listen(&config)?;
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
    let mut outcome = wait_for_the_end(&node, &config, &mut signals, &mut tasks).await;
    tracing::info!("draining: no new mail; running transactions finish");
    stop.cancel();
    // Whatever breaks now, the rest is still ended in order; the first fault is the one told.
    while let Some(ended) = tasks.join_next().await {
        outcome = outcome.and(ended.context("a part of the node broke").and_then(|ended| ended));
    }
    node.reports.flush().await;
    outcome = outcome.and(node.spool.close().await.map_err(Into::into));
    node.cluster.shutdown().await;
    node.flush_logs().await;
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
        let (journal_dir, lines_max) = (data_dir.join("journal"), limits.journal_lines_max);
        let journal = Journal::start(&journal_dir, lines_max, limits.journal_octets_max)
            .context("cannot write the journal")?;
        let log = delivery_log(config)?;
        let own = Own {
            names: [hostname.clone()].into(),
            addresses: interface_addresses(),
            listeners: config.smtp.listen.clone(),
            allow_loopback: config.delivery.allow_loopback_routes,
        };
        let dns = Dns::new(&config.dns_servers, &limits)?;
        let authenticator =
            Authenticator::new(cluster.clone(), dns.resolver(), hostname, Arc::clone(&limits));
        let mx_port = config.delivery.mx_port;
        let deliveries = Deliveries::new(worker::Parts {
            spool: spool.clone(),
            cluster: cluster.clone(),
            router: Router::new(cluster.clone(), dns, own.clone(), mx_port, &limits),
            client: Client::new(hostname.clone(), Arc::clone(&limits), &roots(config))?,
            authenticator: authenticator.clone(),
            hostname: hostname.clone(),
            own_names: vec![hostname.clone()],
            reports: reports.clone(),
            journal: journal.clone(),
            log: log.clone(),
            limits: Arc::clone(&limits),
        });
        let window = Duration::from_millis(limits.refusals_window_ms);
        let watch = Watch::new(window, Instant::now());
        let policy = Policy::new(cluster.clone(), vec![hostname.clone()]).watched_by(watch);
        let policy = Arc::new(policy);
        let publisher = DnsPublisher::new(cluster.clone(), config.tsig_key_file.clone());
        let tls = tls_identity(config)?;
        let traffic = TrafficMeter::new(cluster.clone());
        let accepted = (deliveries.clone(), traffic.clone());
        let inbound = Inbound::new(Parts {
            hostname: hostname.clone(),
            limits: Arc::clone(&limits),
            policy: Arc::clone(&policy),
            authenticator: Some(authenticator),
            intake: spool.clone(),
            accepted: Arc::new(move |queued| {
                accepted.1.count(&queued.envelope);
                accepted.0.accept(queued);
            }),
            tls: tls.clone(),
            unlimited_networks: config.smtp.exempt_networks.clone(),
        });
        let rotation = RotationAdmin::new(cluster.clone(), own.allow_loopback);
        let tables = Tables::new(cluster.clone(), Arc::new(own));
        let admin = Admin {
            tables,
            rotation,
            policy,
            deliveries: deliveries.clone(),
            cluster: cluster.clone(),
            reports: reports.clone(),
            journal: journal.clone(),
        };
        let (inbound, admin) = (Arc::new(inbound), Arc::new(admin));
        let node = Self {
            cluster,
            spool,
            inbound,
            deliveries,
            reports,
            admin,
            tls,
            log,
            journal,
            limits,
            traffic,
            dns: publisher,
        };
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
        let traffic = self.traffic.clone().run(stop.clone());
        let publish = self.dns.clone().run(stop.clone());
        tasks.spawn(async move {
            tokio::join!(traffic, publish);
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
        let health = Health { spool: self.spool.clone(), draining: stop.clone() };
        if let Some(listener) = listeners.http {
            let (health, limits, token) = (health.clone(), Arc::clone(&self.limits), stop.clone());
            tasks.spawn(async move {
                public::serve_public(listener, health, &limits, token).await;
                Ok(())
            });
        }
        if let Some(listener) = listeners.metrics {
            let (limits, token) = (Arc::clone(&self.limits), stop.clone());
            let sources = Sources {
                health,
                cluster: self.cluster.clone(),
                deliveries: self.deliveries.clone(),
                policy: Arc::clone(&self.admin.policy),
                tls: self.tls.clone(),
            };
            tasks.spawn(async move {
                metrics::serve(listener, sources, &limits, token).await;
                Ok(())
            });
        }
    }

    /// SIGHUP: certificates are read again and the delivery log is opened anew, both or neither.
    fn reload(&self, config: &Config) {
        match self.try_reload(config) {
            Ok(()) => tracing::info!("reloaded: certificates read, delivery log opened again"),
            Err(error) => tracing::error!("nothing was reloaded, all stays as it was: {error:#}"),
        }
    }

    fn try_reload(&self, config: &Config) -> anyhow::Result<()> {
        let certificates = self.tls.as_ref().map(|tls| tls.read()).transpose()?;
        let target = config.log.deliveries.as_deref().map(open_log).transpose()?;
        if let (Some(tls), Some(certificates)) = (&self.tls, certificates) {
            tls.replace(certificates);
        }
        if let Some(target) = target {
            self.log.replace(target);
        }
        Ok(())
    }

    /// What was logged last is written, unless the logs' readers or disks stall.
    async fn flush_logs(&self) {
        let within = Duration::from_millis(self.limits.log_flush_timeout_ms);
        let (log, journal) = (self.log.clone(), self.journal.clone());
        let flush = move || {
            log.flush(within);
            if !journal.flush(within) {
                tracing::error!("the last lines of the journal could not be written");
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(flush).await {
            tracing::error!(%error, "the logs could not be flushed");
        }
    }
}

/// Wait for SIGTERM or SIGINT; reload at SIGHUP. A part that ends by itself ends the node.
async fn wait_for_the_end(
    node: &Node,
    config: &Config,
    signals: &mut Signals,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hang_up.recv() => node.reload(config),
            why = node.cluster.failed() => anyhow::bail!(why),
            Some(ended) = tasks.join_next() => {
                ended.context("a part of the node broke")??;
                anyhow::bail!("a part of the node ended by itself");
            }
        }
    }
}

fn listen(config: &Config) -> anyhow::Result<Listeners> {
    let mut smtp = Vec::new();
    for address in &config.smtp.listen {
        smtp.push(bind(*address, "SMTP")?);
    }
    let socket = &config.admin_socket;
    let admin = admin::bind(socket)
        .with_context(|| format!("cannot listen for admin calls on {}", socket.display()))?;
    let http = config.http.map(|address| bind(address, "HTTP")).transpose()?;
    let metrics = config.metrics.map(|address| bind(address, "metrics")).transpose()?;
    Ok(Listeners { smtp, admin, http, metrics })
}

fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let listener = connection::listen(address);
    listener.with_context(|| format!("cannot listen for {what} on {address}"))
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
    let target: Target = match &config.log.deliveries {
        None => Box::new(std::io::stdout()),
        Some(path) => open_log(path)?,
    };
    Ok(DeliveryLog::start(format, target, config.limits.delivery_log_lines_max)?)
}

fn open_log(path: &Path) -> anyhow::Result<Target> {
    delivery_log::open(path).with_context(|| format!("cannot write {}", path.display()))
}
