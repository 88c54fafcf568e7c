//! What the process that started us, systemd in most cases, gives us and is told by us: sockets
//! that it has opened (`sd_listen_fds(3)`), and that we are ready, reload, stop, live
//! (`sd_notify(3)`).

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use listenfd::ListenFd;

/// Sockets that were opened for us, by name.
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<(String, TcpListener)>,
}

impl Inherited {
    /// Take them; to be called once, before there are other threads.
    pub fn take() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut fds = ListenFd::from_env();
        let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
        let mut tcp = Vec::new();
        for (at, name) in names.take(fds.len()).enumerate() {
            let Some(listener) = fds.take_tcp_listener(at)? else { continue };
            listener.set_nonblocking(true)?;
            tcp.push((name, listener));
        }
        Ok(Self { tcp })
    }

    /// Those with this name.
    pub fn named(&mut self, name: &str) -> Vec<TcpListener> {
        let (named, others) =
            std::mem::take(&mut self.tcp).into_iter().partition(|(known, _)| known == name);
        self.tcp = others;
        named.into_iter().map(|(_, listener)| listener).collect()
    }

    /// The names of those that nobody has asked for.
    pub fn left(&self) -> Vec<&str> {
        self.tcp.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Whoever wants to know how we are; nobody, if we were started by hand.
#[derive(Debug)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment says.
    pub fn from_environment() -> io::Result<Self> {
        let word = |name| std::env::var(name).ok();
        let for_us = word("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = word("WATCHDOG_USEC").filter(|_| for_us).and_then(|us| us.parse().ok());
        let socket = word("NOTIFY_SOCKET").map(|place| connect(&place)).transpose()?;
        Ok(Self { socket, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// How often [`Supervisor::alive`] must be called, if at all.
    pub fn pulse(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some()).map(|watchdog| watchdog / 3)
    }

    /// Mail is accepted from now on, or the reload is over.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
    }

    /// No new mail is taken.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=running transactions finish");
    }

    /// The node is not stuck.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, words: &str) {
        let Some((socket, to)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), to) {
            tracing::warn!(%error, "the supervisor was not told: {}", words.escape_debug());
        }
    }
}

/// A path, or a name without a file when it begins with `@`.
fn connect(place: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match place.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A supervisor that does not listen must not stop the mail.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}
