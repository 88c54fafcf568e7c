//! A real Prometheus with the rules of `ops/prometheus`, and the blackbox exporter beside it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fleet::Fleet;
use super::process::Process;
use super::{SOON, await_listening, eventually, free_address, scratch};

/// The folder of rules and configuration.
pub fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/prometheus")
}

/// How fast time passes in the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As in production.
    Usual,
    /// A minute of a rule is a second: what an alert waits for, and what it looks back at.
    SixtyTimes,
}

/// A running Prometheus; it stops when dropped.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _prober: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// One that watches these nodes as `ops/prometheus/prometheus.yml` says, once a second.
    pub fn watching(fleet: &Fleet, pace: Pace) -> Self {
        let folder = scratch();
        let (address, prober) = (free_address(), free_address());
        for name in ["recording.yml", "alerts.yml"] {
            let text = std::fs::read_to_string(rules().join(name)).unwrap();
            let text = if pace == Pace::SixtyTimes { hurried(&text) } else { text };
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, configuration(fleet, prober)).unwrap();
        let blackbox = rules().join("blackbox.yml");
        let words = [
            "prometheus-blackbox-exporter".to_owned(),
            format!("--config.file={}", blackbox.display()),
            format!("--web.listen-address={prober}"),
        ];
        let _prober = Process::start(&words, &folder.path().join("blackbox.log"));
        let words = [
            "prometheus".to_owned(),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={address}"),
            "--log.level=warn".to_owned(),
        ];
        let _process = Process::start(&words, &folder.path().join("prometheus.log"));
        await_listening(prober);
        await_listening(address);
        Self { address, _process, _prober, _folder: folder }
    }

    fn ask(&self, path: &str) -> Value {
        let mut answer = Value::Null;
        eventually(&format!("an answer of Prometheus to {path}"), SOON, || {
            let Some((status, text)) = get(self.address, path) else { return false };
            answer = serde_json::from_str(&text).unwrap_or_default();
            // It answers 503 while it starts; what is wrong with a query it says with a 4xx.
            assert!(status != 400 && status != 422, "{path}: {answer:#}");
            status == 200
        });
        answer["data"].take()
    }

    /// What an expression comes to now: labels and values.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.ask(&format!("/api/v1/query?query={}", encoded(expression)));
        answer["result"].as_array().unwrap().clone()
    }

    /// Targets by their health: those that are `up`, and what is wrong with the others.
    pub fn targets(&self) -> (usize, Vec<String>) {
        let answer = self.ask("/api/v1/targets");
        let targets = answer["activeTargets"].as_array().unwrap();
        let (up, down): (Vec<_>, Vec<_>) =
            targets.iter().partition(|target| target["health"] == "up");
        let said = |target: &&Value| format!("{}: {}", target["scrapeUrl"], target["lastError"]);
        (up.len(), down.iter().map(said).collect())
    }

    /// Rules that were evaluated, and what is wrong with those that cannot be.
    pub fn rule_health(&self) -> (usize, Vec<String>) {
        let answer = self.ask("/api/v1/rules");
        let groups = answer["groups"].as_array().unwrap();
        let rules: Vec<&Value> =
            groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        let sick = rules.iter().filter(|rule| rule["health"] == "err");
        let sick = sick.map(|rule| format!("{}: {}", rule["name"], rule["lastError"])).collect();
        (rules.iter().filter(|rule| rule["health"] == "ok").count(), sick)
    }

    /// Alerts that fire or are about to, by name and state; the watchdog left out.
    pub fn alerts(&self) -> Vec<(String, String)> {
        let answer = self.ask("/api/v1/alerts");
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let alerts = answer["alerts"].as_array().unwrap().iter();
        let mut named: Vec<_> = alerts
            .map(|alert| (word(&alert["labels"]["alertname"]), word(&alert["state"])))
            .collect();
        named.retain(|(name, _)| name != "Watchdog");
        named
    }

    /// Whether an alert fires.
    pub fn fires(&self, name: &str) -> bool {
        self.alerts().contains(&(name.to_owned(), "firing".to_owned()))
    }
}

/// One request by HTTP/1.0, whose answers are never sent in chunks.
fn get(server: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The example configuration with the fleet's own addresses, looking once a second.
fn configuration(fleet: &Fleet, prober: SocketAddr) -> String {
    let mut text = std::fs::read_to_string(rules().join("prometheus.yml")).unwrap();
    let mut replace = |from: &str, to: &str| {
        assert!(text.contains(from), "prometheus.yml does not say {from}");
        text = text.replace(from, to);
    };
    replace("15s", "1s");
    replace("127.0.0.1:9115", &prober.to_string());
    for (number, node) in (1..).zip(&fleet.nodes) {
        replace(&format!("mx{number}.internal.example:9090"), &node.metrics().to_string());
        replace(&format!("mx{number}.relay.example:25"), &node.smtp().to_string());
    }
    text
}

/// Every duration of the rules sixty times shorter: `for: 5m`, `[15m]`, `offset 1h`.
fn hurried(rules: &str) -> String {
    let mut text = String::new();
    let mut rest = rules;
    while let Some(at) = ["for: ", "[", "offset "].iter().filter_map(|word| rest.find(word)).min() {
        let start = at + rest[at..].find(['[', ' ']).unwrap() + 1;
        let digits = rest[start..].find(|c: char| !c.is_ascii_digit()).unwrap();
        let (number, unit) = (&rest[start..start + digits], &rest[start + digits..]);
        text.push_str(&rest[..start]);
        rest = &rest[start..];
        let Ok(number) = number.parse::<u32>() else { continue };
        let hurried = match unit.as_bytes()[0] {
            b'm' => format!("{number}s"),
            b'h' => format!("{number}m"),
            b'd' => format!("{}m", number * 24),
            _ => continue,
        };
        text.push_str(&hurried);
        rest = &rest[digits + 1..];
    }
    text + rest
}

fn encoded(text: &str) -> String {
    let octet = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(octet).collect()
}
