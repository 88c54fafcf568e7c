//! The composition root: build every stage, start, announce, drain. The only file that knows them
//! all.

pub mod files;
mod reload;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ipnet::IpNet;
use mxfleet_cluster::Cluster;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::authentication::Authenticator;
use crate::blacklist::Reports;
use crate::callout::{self, Callout};
use crate::client::{Client, Roots};
use crate::config::{Config, Limits, LogFormat};
use crate::connection::{self, Accepted, Inbound, Parts, Service, TlsIdentity};
use crate::fleet::{self, Place};
use crate::http::admin::{self, Admin};
use crate::http::metrics::{self, Sources};
use crate::http::public::{self, Health};
use crate::http::rotation::RotationAdmin;
use crate::http::site::Site;
use crate::http::tables::Tables;
use crate::letters::Letters;
use crate::policy::{Policy, Watch};
use crate::post::Post;
use crate::probe::{self, Prober, Probes};
use crate::returns::{self, Returns};
use crate::roles::{Answered, Webhook};
use crate::rotation::{self, Acme, Rotation, TrafficMeter};
use crate::route::{Dns, Own, Router, interface_addresses};
use crate::spool::{OsFs, Queued, Recovered, Spool, SpoolConfig};
use crate::system::clock::wall_ms;
use crate::system::pid_file;
use crate::system::supervisor::{Inherited, Supervisor};
use crate::telemetry::delivery_log::{self, DeliveryLog, Format, Target};
use crate::telemetry::journal::Journal;
use crate::worker::{self, Deliveries};
use reload::{ConfigFile, certificate_files};

/// Without a supervisor nobody listens for a pulse.
const NO_PULSE: Duration = Duration::from_hours(1);

/// A node whose stages are built and not yet started.
struct Node {
    cluster: Cluster,
    spool: Spool,
    inbound: Arc<Inbound<Spool>>,
    deliveries: Deliveries,
    reports: Reports,
    admin: Arc<Admin>,
    tls: Arc<TlsIdentity>,
    log: DeliveryLog,
    journal: Journal,
    limits: Arc<Limits>,
    service: Service,
    rotation: Rotation,
    site: Site,
}

/// Everything that listens, bound before anything is started.
struct Listeners {
    smtp: Vec<TcpListener>,
    admin: UnixListener,
    http: Option<TcpListener>,
    /// They say for whom they ask.
    http_proxies: Vec<IpNet>,
    metrics: Option<TcpListener>,
}

type Tasks = JoinSet<anyhow::Result<()>>;

/// Run a node until SIGTERM or SIGINT, then drain it. `file` is what the configuration was read
/// from, `inherited` what a supervisor has opened for us.
pub async fn run(config: Config, file: &Path, inherited: Inherited) -> anyhow::Result<()> {
    let supervisor = Supervisor::from_environment().context("cannot reach the supervisor")?;
    let mut file = ConfigFile::new(file)?;
    let data_dir = &config.node.data_dir;
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot make {}", data_dir.display()))?;
    let mut signals = Signals::new()?;
    let listeners = listen(&config, inherited)?;
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
    if let Some(problem) = files::key_problem(&config) {
        tracing::error!(
            "{problem}; while this node leads, no MX name can move. The file is read again at each \
             change"
        );
    }
    if node.cluster.view().operators().next().is_none() {
        tracing::warn!(
            "nobody is set to read mail to support@, trouble@, abuse@ and the like: it is answered \
             450, and postmaster's waits in the queue, until `mxfleet settings set \
             service.operators ADDRESS,...`"
        );
    }
    supervisor.ready("accepts mail");
    let mut outcome =
        wait_for_the_end(&node, &mut signals, &mut tasks, &supervisor, &mut file).await;
    supervisor.stopping();
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

/// What a node keeps in its data folder.
struct Stores {
    spool: Spool,
    recovered: Recovered,
    reports: Reports,
    journal: Journal,
    returns: Returns,
    letters: Letters,
    answered: Answered,
}

impl Stores {
    fn open(config: &Config, node_id: u16, limits: &Arc<Limits>) -> anyhow::Result<Self> {
        let data_dir = &config.node.data_dir;
        let spool_config =
            SpoolConfig { dir: data_dir.join("spool"), node_id, limits: Arc::clone(limits) };
        let (spool, recovered) = Spool::open(spool_config, Arc::new(OsFs))?;
        let outbox = data_dir.join("outbox");
        let reports = Reports::open(&outbox, u64::from(node_id), &spool.ids(), limits)?;
        let journal = journal(config).context("cannot write the journal")?;
        let returns = Returns::open(&data_dir.join("returns"), limits.returns_kept_max)
            .context("cannot read what is remembered of return paths")?;
        let letters =
            Letters::open(&data_dir.join("letters")).context("cannot read old letters")?;
        let answered = Answered::open(&data_dir.join("answered"), wall_ms())
            .context("cannot read who was answered")?;
        Ok(Self { spool, recovered, reports, journal, returns, letters, answered })
    }
}

impl Node {
    #[expect(clippy::too_many_lines, reason = "the one place that joins all stages")]
    fn build(config: &Config, place: Place) -> anyhow::Result<(Self, Recovered)> {
        let Place { cluster, node_id } = place;
        let limits = Arc::new(config.limits.clone());
        let hostname = &config.node.hostname;
        let Stores { spool, recovered, reports, journal, returns, letters, answered } =
            Stores::open(config, node_id, &limits)?;
        let webhook = webhook(config)?;
        let log = delivery_log(config)?;
        let dns = Dns::new(&config.dns_servers, &limits)?;
        let authenticator =
            Authenticator::new(cluster.clone(), dns.resolver(), hostname, Arc::clone(&limits));
        let (mx_port, own) = (config.delivery.mx_port, own(config));
        let router = Router::new(cluster.clone(), dns.clone(), own.clone(), mx_port, &limits);
        let deliveries = Deliveries::new(worker::Parts {
            spool: spool.clone(),
            cluster: cluster.clone(),
            router: router.clone(),
            client: Client::new(hostname.clone(), Arc::clone(&limits), &roots(config))?,
            authenticator: authenticator.clone(),
            hostname: hostname.clone(),
            own_names: vec![hostname.clone()],
            reports: reports.clone(),
            returns,
            letters: letters.clone(),
            webhook: webhook.clone(),
            answered,
            journal: journal.clone(),
            log: log.clone(),
            limits: Arc::clone(&limits),
        });
        let probes = probes(config, &cluster, router.clone(), &dns)?;
        let callout = callout(config, &cluster, router, &deliveries, &reports)?;
        let policy = policy(&cluster, hostname, &limits, callout, journal.clone())
            .with_webhook(webhook.is_some());
        let policy = Arc::new(policy);
        let tls = Arc::new(TlsIdentity::load(&certificate_files(config))?);
        let service = Service::default();
        let post = Post {
            spool: spool.clone(),
            deliveries: deliveries.clone(),
            hostname: hostname.clone(),
        };
        let name = &config.node.name;
        let account = Account::new(cluster.clone(), name, post.clone(), journal.clone());
        let rotation = Rotation::new(rotation::Parts {
            cluster: cluster.clone(),
            post,
            service: service.clone(),
            node: u64::from(node_id),
            tsig_key_file: config.tsig_key_file.clone(),
            acme: Acme {
                ca_file: config.acme_ca_file.clone(),
                account_file: config.node.data_dir.join("acme-account.json"),
            },
            letters,
            dns: Dns::uncached(&config.dns_servers, &limits)?,
            tls: Arc::clone(&tls),
        });
        let inbound = Inbound::new(Parts {
            hostname: hostname.clone(),
            limits: Arc::clone(&limits),
            policy: Arc::clone(&policy),
            authenticator: Some(authenticator),
            intake: spool.clone(),
            accepted: accepted(deliveries.clone(), rotation.traffic()),
            tls: Some(Arc::clone(&tls)),
            unlimited_networks: config.smtp.exempt_networks.clone(),
            service: service.clone(),
            log: Some(log.clone()),
        });
        let admin = Admin {
            node: name.clone(),
            account: account.clone(),
            rotation: RotationAdmin::new(cluster.clone(), rotation.surveyor(), own.allow_loopback),
            tables: Tables::new(cluster.clone(), Arc::new(own)),
            policy,
            deliveries: deliveries.clone(),
            cluster: cluster.clone(),
            reports: reports.clone(),
            journal: journal.clone(),
            probes: probes.clone(),
        };
        let site = Site::new(cluster.clone(), name, probes, account);
        let node = Self {
            cluster,
            spool,
            inbound: Arc::new(inbound),
            deliveries,
            reports,
            admin: Arc::new(admin),
            tls,
            log,
            journal,
            limits,
            service,
            rotation,
            site,
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
        let rotation = self.rotation.clone().run(stop.clone());
        let rotate = returns::rotate(self.cluster.clone(), stop.clone());
        let site = self.site.clone().run(stop.clone());
        tasks.spawn(async move {
            tokio::join!(rotation, rotate, site);
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
        let health = Health {
            spool: self.spool.clone(),
            draining: stop.clone(),
            service: self.service.clone(),
        };
        if let Some(listener) = listeners.http {
            let (health, limits, token) = (health.clone(), Arc::clone(&self.limits), stop.clone());
            let (site, proxies) = (self.site.clone(), listeners.http_proxies);
            tasks.spawn(async move {
                public::serve_public(listener, proxies, site, health, &limits, token).await;
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
                tls: Arc::clone(&self.tls),
            };
            tasks.spawn(async move {
                metrics::serve(listener, sources, &limits, token).await;
                Ok(())
            });
        }
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

/// Wait for SIGTERM or SIGINT; reload at SIGHUP; tell the supervisor that we live. A part that ends
/// by itself ends the node.
async fn wait_for_the_end(
    node: &Node,
    signals: &mut Signals,
    tasks: &mut Tasks,
    supervisor: &Supervisor,
    file: &mut ConfigFile,
) -> anyhow::Result<()> {
    let mut pulse = interval(supervisor.pulse().unwrap_or(NO_PULSE));
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hang_up.recv() => {
                supervisor.reloading();
                file.reload(&node.tls, &node.log);
                supervisor.ready("accepts mail");
            }
            _ = pulse.tick(), if supervisor.pulse().is_some() => supervisor.alive(),
            why = node.cluster.failed() => anyhow::bail!(why),
            Some(ended) = tasks.join_next() => {
                ended.context("a part of the node broke")??;
                anyhow::bail!("a part of the node ended by itself");
            }
        }
    }
}

/// Sockets that a supervisor has opened under the name `smtp`, `http` or `metrics` stand for the
/// addresses of the configuration.
fn listen(config: &Config, mut inherited: Inherited) -> anyhow::Result<Listeners> {
    let mut smtp = Vec::new();
    for listener in inherited.named("smtp") {
        smtp.push(connection::inherit(listener).context("a socket that was passed for SMTP")?);
    }
    let to_bind = if smtp.is_empty() { config.smtp.listen.as_slice() } else { &[] };
    for address in to_bind {
        let listener = connection::listen(*address);
        smtp.push(listener.with_context(|| format!("cannot listen for SMTP on {address}"))?);
    }
    let socket = &config.admin_socket;
    let admin = admin::bind(socket)
        .with_context(|| format!("cannot listen for admin calls on {}", socket.display()))?;
    let http = bind(inherited.named("http"), config.http, "HTTP")?;
    let metrics = bind(inherited.named("metrics"), config.metrics, "metrics")?;
    if let Some(name) = inherited.left().first() {
        anyhow::bail!("a socket was passed under the name {name:?}; name it smtp, http or metrics");
    }
    let http_proxies = config.http_proxies.clone();
    Ok(Listeners { smtp, admin, http, http_proxies, metrics })
}

fn bind(
    inherited: Vec<std::net::TcpListener>,
    address: Option<SocketAddr>,
    what: &str,
) -> anyhow::Result<Option<TcpListener>> {
    if let Some(listener) = inherited.into_iter().next() {
        let listener = connection::inherit(listener);
        return Ok(Some(listener.with_context(|| format!("a socket that was passed for {what}"))?));
    }
    let Some(address) = address else { return Ok(None) };
    let listener = connection::listen(address);
    Ok(Some(listener.with_context(|| format!("cannot listen for {what} on {address}"))?))
}

fn journal(config: &Config) -> std::io::Result<Journal> {
    let (dir, limits) = (config.node.data_dir.join("journal"), &config.limits);
    Journal::start(&dir, limits.journal_lines_max, limits.journal_octets_max)
}

fn callout(
    config: &Config,
    cluster: &Cluster,
    router: Router,
    deliveries: &Deliveries,
    reports: &Reports,
) -> anyhow::Result<Callout> {
    let limits = Arc::new(config.limits.clone());
    let failing = deliveries.clone();
    Ok(Callout::new(callout::Parts {
        cluster: cluster.clone(),
        router,
        client: Client::new(config.node.hostname.clone(), Arc::clone(&limits), &roots(config))?,
        news: reports.news(),
        is_failing: Arc::new(move |domain| failing.is_failing(domain)),
        limits,
    }))
}

/// Looking at customers' servers; other nodes are answered from now on.
fn probes(config: &Config, cluster: &Cluster, router: Router, dns: &Dns) -> anyhow::Result<Probes> {
    let prober = Prober::new(probe::Parts {
        cluster: cluster.clone(),
        router,
        dns: dns.clone(),
        hostname: &config.node.hostname,
        limits: &config.limits,
        roots: &roots(config),
        allow_loopback: config.delivery.allow_loopback_routes,
    })?;
    Ok(Probes::new(cluster.clone(), &config.node.name, prober))
}

/// What this node is to a route that leads back to it.
fn own(config: &Config) -> Own {
    Own {
        names: [config.node.hostname.clone()].into(),
        addresses: interface_addresses(),
        listeners: config.smtp.listen.clone(),
        allow_loopback: config.delivery.allow_loopback_routes,
    }
}

fn policy(
    cluster: &Cluster,
    hostname: &str,
    limits: &Limits,
    callout: Callout,
    journal: Journal,
) -> Policy {
    let window = Duration::from_millis(limits.refusals_window_ms);
    let watch = Watch::new(window, Instant::now());
    let policy = Policy::new(cluster.clone(), vec![hostname.to_owned()]);
    policy.watched_by(watch).with_callout(callout).with_journal(journal)
}

/// What happens to a message that is safe in the spool.
fn accepted(deliveries: Deliveries, traffic: TrafficMeter) -> Accepted<Queued> {
    Arc::new(move |queued: Queued| {
        traffic.count(&queued.envelope);
        deliveries.accept(queued);
    })
}

/// Who is told of mail to `trouble`.
fn webhook(config: &Config) -> anyhow::Result<Option<Webhook>> {
    let Some(file) = &config.service.webhook_url_file else { return Ok(None) };
    let roots = config.service.webhook_ca_file.clone().map_or(Roots::System, Roots::File);
    Ok(Some(Webhook::open(file, &roots)?))
}

fn roots(config: &Config) -> Roots {
    config.delivery.ca_file.clone().map_or(Roots::System, Roots::File)
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
