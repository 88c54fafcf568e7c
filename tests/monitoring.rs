//! What operators watch is right by itself: rules, their tests, dashboards and runbooks fit the
//! program and one another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mxfleet::telemetry::metrics::NAMES;
use serde_json::Value;
use support::node::PROGRAM;
use support::process::{attempt, output, said};

fn ops(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of a folder with their names, in order.
fn files(folder: &str) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(ops(folder)).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(_, path)| path.is_file())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

fn alerts() -> BTreeSet<String> {
    let rules = read(&ops("prometheus/alerts.yml"));
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

fn promtool(arguments: &[&str]) -> String {
    output("promtool", arguments)
}

#[test]
fn promtool_finds_nothing_wrong_with_rules_and_configuration() {
    let path = |name: &str| ops("prometheus").join(name).display().to_string();
    promtool(&["check", "config", &path("prometheus.yml")]);
    promtool(&["check", "rules", &path("recording.yml"), &path("alerts.yml")]);
    output(
        "prometheus-blackbox-exporter",
        &["--config.check", &format!("--config.file={}", path("blackbox.yml"))],
    );
}

#[test]
fn every_alert_is_tested_to_fire_and_to_be_silent() {
    let mut tests = String::new();
    for (_, path) in files("prometheus/tests") {
        promtool(&["test", "rules", path.to_str().unwrap()]);
        tests.push_str(&read(&path));
    }
    for alert in alerts() {
        assert!(tests.contains(&format!("- name: {alert} fires\n")), "{alert} fires in no test");
        // The watchdog is there to fire always.
        let silent = tests.contains(&format!("- name: {alert} is silent"));
        assert!(silent || alert == "Watchdog", "{alert} is silent in no test");
    }
}

#[test]
fn every_alert_has_severity_words_and_a_runbook_and_every_runbook_an_alert() {
    let rules = read(&ops("prometheus/alerts.yml"));
    let alerts = alerts();
    assert!(alerts.len() > 35, "{alerts:?}");
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        for word in ["severity: ", "summary: ", "description: "] {
            assert!(rule.contains(word), "{name} has no {word}");
        }
        let url = format!("runbook_url: ops/runbooks/{name}.md");
        assert!(rule.contains(&url), "{name} has no {url}");
    }
    let books: BTreeSet<String> = files("runbooks")
        .into_iter()
        .map(|(name, _)| name.strip_suffix(".md").unwrap().to_owned())
        .collect();
    assert_eq!(books, alerts);
    for (name, path) in files("runbooks") {
        let book = read(&path);
        for part in
            [format!("# {}\n", name.strip_suffix(".md").unwrap()).as_str(), "## Look\n", "## Do\n"]
        {
            assert!(book.contains(part), "{name} has no {part}");
        }
        for link in book.split("](").skip(1) {
            let target = ops("runbooks").join(link.split(')').next().unwrap());
            assert!(target.exists(), "{name} leads to {}", target.display());
        }
    }
}

#[test]
fn commands_in_runbooks_exist() {
    let mut commands = BTreeSet::new();
    for (_, path) in files("runbooks") {
        let book = read(&path);
        // Blocks, and words between backquotes.
        let pieces = book.split('`').flat_map(str::lines);
        commands.extend(
            pieces
                .filter_map(|line| line.trim().strip_prefix("mxfleet "))
                .map(|line| line.split(" #").next().unwrap().trim().to_owned()),
        );
    }
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let words = words(&command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = attempt(PROGRAM, &[&["--admin", "/nobody/listens"], &words[..]].concat());
        // 2 is wrong usage; there is no node to do it, which is 1, or no such file, which is 78.
        assert_ne!(done.status.code(), Some(2), "mxfleet {command}: {}", said(&done));
        assert!(!done.status.success(), "mxfleet {command} did something");
    }
}

/// Words of a command line; quotes hold together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Metrics of the process itself that come with the library, and of Prometheus and its exporter.
const FOREIGN: &[&str] = &[
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

/// Every word of a text that looks like a metric of ours, or of the process.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_part(c));
    let ours = |word: &&str| word.starts_with("mxfleet_") || word.starts_with("process_");
    words.filter(ours).map(str::to_owned).collect()
}

fn is_known(word: &str) -> bool {
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|end| word.strip_suffix(end));
    parts.chain([word]).any(|name| NAMES.contains(&name)) || FOREIGN.contains(&word)
}

#[test]
fn every_metric_in_rules_and_dashboards_exists() {
    let rules = read(&ops("prometheus/recording.yml")) + &read(&ops("prometheus/alerts.yml"));
    // Names of groups and jobs look like metrics too.
    let rules: String = rules.lines().filter(|line| !line.contains("- name: ")).collect();
    let mut faults = Vec::new();
    for word in metrics_in(&rules).iter().filter(|word| !is_known(word)) {
        faults.push(format!("rules: {word}"));
    }
    let records = read(&ops("prometheus/recording.yml"));
    for (name, dashboard) in dashboards() {
        for (panel, query) in queries(&dashboard) {
            for word in metrics_in(&query).iter().filter(|word| !is_known(word)) {
                faults.push(format!("{name}: {panel}: {word}"));
            }
            for record in query.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c)) {
                if record.contains(':') && !records.contains(&format!("record: {record}\n")) {
                    faults.push(format!("{name}: {panel}: no record {record}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn dashboards() -> Vec<(String, Value)> {
    let files = files("grafana/dashboards").into_iter();
    files.map(|(name, path)| (name, serde_json::from_str(&read(&path)).unwrap())).collect()
}

/// Panels with their queries.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            found.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    found
}

#[test]
fn dashboards_are_what_their_script_writes_and_keep_to_the_conventions() {
    let before = dashboards();
    let copy = support::scratch();
    let script = copy.path().join("generate");
    std::fs::copy(ops("grafana/generate"), &script).unwrap();
    output("python3", &[script.to_str().unwrap()]);
    for (name, _) in &before {
        let (kept, made) = (ops("grafana/dashboards"), copy.path().join("dashboards"));
        assert_eq!(
            read(&kept.join(name)),
            read(&made.join(name)),
            "{name}: run ops/grafana/generate"
        );
    }
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cluster.json", "delivery.json", "fleet.json", "inbound.json", "node.json"]);
    for (name, dashboard) in &before {
        let stem = name.strip_suffix(".json").unwrap();
        assert_eq!(dashboard["uid"], format!("mxfleet-{stem}"));
        assert_eq!((&dashboard["id"], &dashboard["schemaVersion"]), (&Value::Null, &39.into()));
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let variables: Vec<&str> = variables.iter().map(|v| v["name"].as_str().unwrap()).collect();
        assert_eq!(variables, ["datasource", "cluster", "node"]);
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = &panel["title"];
            assert!(panel["description"].as_str().is_some_and(|d| d.len() > 5), "{name}: {title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            let has_no_unit = ["table", "heatmap"].contains(&panel["type"].as_str().unwrap());
            assert!(unit.is_string() || has_no_unit, "{name}: {title} has no unit");
        }
    }
}
