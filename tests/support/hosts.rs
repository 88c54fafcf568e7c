//! Hosts as an operator has them: each with an address, a name, and files of its own over those of
//! this machine. No systemd runs here, so a stand-in starts and stops nodes and name servers; `ssh`
//! leads from host to host.

use std::path::Path;
use std::process::Output;

use super::process::{Process, attempt, attempt_with, output};
use super::{SOON, eventually, scratch};

/// What the stand-in for systemd does on a host, for as long as it stands.
const INIT: &str = r#"
hostname "$NAME"
for top in etc usr var root; do
  own=$HOME_DIR/$top
  mkdir -p "$own/upper" "$own/work"
  mount -t overlay overlay -o "lowerdir=/$top,upperdir=$own/upper,workdir=$own/work" "/$top"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
mkfifo /run/init
touch "$HOME_DIR/up"
exec 3<>/run/init
while true; do
  # A process that ends interrupts the reading.
  read -r unit <&3 || continue
  case $unit in
    mxfleet) user=mxfleet program="/usr/bin/mxfleet run --config /etc/mxfleet/mxfleet.toml" ;;
    named) user=bind program="/usr/sbin/named -f -n 1" ;;
    knot) user=knot program="/usr/sbin/knotd -c /etc/knot/knot.conf" ;;
  esac
  install -d -o "$user" "/run/$unit"
  setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=+net_bind_service \
    --ambient-caps=+net_bind_service setpriv --pdeathsig KILL \
    $program </dev/null >>"$HOME_DIR/$unit.log" 2>&1 3>&- &
  echo $! >"/run/$unit.pid"
done
"#;

/// What the guide asks of systemctl.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -e
unit=${*: -1}
unit=${unit%.service}
pid=/run/$unit.pid
running() { [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }
answers() {
  case $unit in
    mxfleet) mxfleet health --config /etc/mxfleet/mxfleet.toml 2>/dev/null ;;
    *) [ -n "$(ss -Hlun sport = :53)" ] ;;
  esac
}
start() {
  ! running || return 0
  rm -f "$pid"
  echo "$unit" >/run/init
  until [ -s "$pid" ]; do sleep 0.05; done
  until answers; do running; sleep 0.1; done
}
stop() { if running; then kill "$(cat "$pid")"; while running; do sleep 0.05; done; fi; }
case "$1" in
  enable | start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  try-restart) if running; then stop; start; fi ;;
  daemon-reload) ;;
  *) echo "no systemctl $1 here" >&2; exit 1 ;;
esac
"#;

const SSH: &str = r#"#!/bin/bash
host=$1
shift
exec nsenter -t "$(cat "$SHIMS/$host.pid")" -m -u -n -- bash -ec "$*"
"#;

/// Hosts on a network that only they and [`Hosts::outside`] are on.
#[derive(Debug)]
pub struct Hosts {
    network: String,
    names: Vec<String>,
    holders: Vec<Process>,
    folder: tempfile::TempDir,
}

impl Hosts {
    /// Hosts with these names, at 192.0.2.1 and on. Outside are 192.0.2.99 and 192.0.2.254.
    pub fn with(names: &[&str]) -> Self {
        let network = format!("guide{}", std::process::id());
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut hosts = Self { network, names, holders: Vec::new(), folder: scratch() };
        let outside = hosts.space("outside");
        ip(&["netns", "add", &outside]);
        let inside = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            ip(&[&["-n", &outside], &words[..]].concat());
        };
        inside("link add bridge type bridge");
        inside("link set bridge up");
        inside("link set lo up");
        inside("addr add 192.0.2.254/24 dev bridge");
        inside("addr add 192.0.2.99/24 dev bridge");
        for (shim, text) in [("systemctl", SYSTEMCTL), ("ssh", SSH)] {
            let path = hosts.folder.path().join(shim);
            std::fs::write(&path, text).unwrap();
            output("chmod", &["755", path.to_str().unwrap()]);
        }
        output("chmod", &["755", hosts.folder.path().to_str().unwrap()]);
        for number in 0..hosts.names.len() {
            hosts.add(number);
        }
        hosts
    }

    fn add(&mut self, number: usize) {
        let name = self.names[number].clone();
        let (space, outside) = (self.space(&name), self.space("outside"));
        ip(&["netns", "add", &space]);
        let cable = format!("cable{number}");
        let peer = ["peer", "name", "eth0", "netns", &space];
        ip(&[&["-n", &outside, "link", "add", &cable, "type", "veth"], &peer[..]].concat());
        ip(&["-n", &outside, "link", "set", &cable, "master", "bridge", "up"]);
        let address = format!("192.0.2.{}/24", number + 1);
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"]);
        ip(&["-n", &space, "link", "set", "eth0", "up"]);
        ip(&["-n", &space, "link", "set", "lo", "up"]);
        let home = self.folder.path().join(&name);
        std::fs::create_dir(&home).unwrap();
        let words = ["ip", "netns", "exec", &space, "env"].map(str::to_owned);
        let mut words = words.to_vec();
        words.push(format!("NAME={name}"));
        words.push(format!("HOME_DIR={}", home.display()));
        words.push(self.path());
        words.push(format!("SHIMS={}", self.folder.path().display()));
        words.extend(
            ["unshare", "--mount", "--uts", "--propagation", "private", "bash", "-ec", INIT]
                .map(str::to_owned),
        );
        let holder = Process::start(&words, &home.join("init.log"));
        eventually("a host that is up", SOON, || home.join("up").exists());
        let pid = self.folder.path().join(format!("{name}.pid"));
        std::fs::write(pid, holder.id().to_string()).unwrap();
        self.holders.push(holder);
    }

    fn path(&self) -> String {
        let shims = self.folder.path().display();
        format!("PATH={shims}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.network)
    }

    /// Run a script as root on a host, in root's home; a command that fails ends it.
    pub fn try_run(&self, host: &str, script: &str) -> Output {
        let number = self.names.iter().position(|name| name == host).unwrap();
        let target = self.holders[number].id().to_string();
        let shims = format!("SHIMS={}", self.folder.path().display());
        let words = ["nsenter", "-t", &target, "-m", "-u", "-n", "--", "env"];
        let mut words = words.map(str::to_owned).to_vec();
        words.extend([self.path(), shims]);
        let script = format!("cd /root\n{script}");
        // What waits for something that does not come must end, so that the test can say why.
        let limit = ["timeout", "--kill-after=5", "120"];
        let shell = ["bash", "-eo", "pipefail", "-c", script.as_str()];
        words.extend(limit.iter().chain(&shell).map(|&word| word.to_owned()));
        attempt_with(&words, "")
    }

    /// As [`Hosts::try_run`], and it must succeed; its standard output.
    pub fn run(&self, host: &str, script: &str) -> String {
        let done = self.try_run(host, script);
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let log = std::fs::read_to_string(self.folder.path().join(host).join("mxfleet.log"));
        let log = log.unwrap_or_default();
        let tail = &log[log.ceil_char_boundary(log.len().saturating_sub(2000))..];
        assert!(done.status.success(), "{host}: {script}\n{out}{said}\nthe node says:\n{tail}");
        out
    }

    /// What stands before a command that runs outside, on the same network.
    pub fn outside(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.space("outside")].map(str::to_owned).to_vec()
    }

    /// The power of a host's node fails.
    pub fn kill(&self, host: &str) {
        let script = "pid=$(cat /run/mxfleet.pid); kill -9 $pid; \
                      while kill -0 $pid 2>/dev/null; do sleep 0.05; done";
        self.run(host, script);
    }

    /// Put a file into root's home on every host.
    pub fn copy(&self, file: &Path) {
        for host in &self.names {
            self.run(host, &format!("cp {} /root/", file.display()));
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in self.names.iter().take(self.holders.len()) {
            self.try_run(name, "kill -9 $(cat /run/mxfleet.pid)");
        }
        for holder in &mut self.holders {
            holder.kill();
        }
        for name in self.names.iter().map(String::as_str).chain(["outside"]) {
            attempt("ip", &["netns", "delete", &self.space(name)]);
        }
    }
}

fn ip(arguments: &[&str]) {
    output("ip", arguments);
}
