//! What the program says when it is given something wrong, and with which exit code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

fn mxfleet(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_mxfleet");
    let output = Command::new(program).args(args).env_remove("MXFLEET_ADMIN").output();
    output.unwrap_or_else(|error| unreachable!("{program} does not start: {error}"))
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_reference_configuration_has_no_problem() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/mxfleet.toml");
    let output = mxfleet(&["check-config", file]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
}

#[test]
fn every_commented_key_of_the_reference_configuration_is_a_real_one() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ops/mxfleet.toml"));
    let uncommented: String = text
        .unwrap()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with("[[") => rest,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(uncommented.contains("\nmx_port = 25"), "nothing was uncommented");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mxfleet.toml");
    // The files it names are looked at, too.
    let place = |name: &str| dir.path().join(name).display().to_string();
    let text = uncommented.replace("/etc/mxfleet/", &place(""));
    assert!(text.contains(&place("tsig.key")) && text.contains(&place("mx1.pem")));
    std::fs::write(&file, text).unwrap();
    let check = || mxfleet(&["check-config", file.to_str().unwrap()]);
    let missing = check();
    assert_eq!(missing.status.code(), Some(78), "{}", words(&missing));
    for name in ["mx1.pem", "tsig.key"] {
        assert!(words(&missing).contains(&place(name)), "{}", words(&missing));
    }
    let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let (chain, key) = (place("mx1.pem"), place("mx1.key"));
    let rest = ["-subj", "/CN=mx1.relay.example", "-out", &chain, "-keyout", &key];
    let made = Command::new("openssl").args(make).args(rest).output().unwrap();
    assert!(made.status.success(), "{}", words(&made));
    std::fs::write(place("tsig.key"), "key \"mxfleet\" { algorithm hmac-sha256; };").unwrap();
    let broken = check();
    assert_eq!(broken.status.code(), Some(78), "{}", words(&broken));
    assert!(words(&broken).contains("is not as `tsig-keygen` writes it"), "{}", words(&broken));
    let key = "key \"mxfleet\" { algorithm hmac-sha256; secret \"c2VjcmV0IQ==\"; };";
    std::fs::write(place("tsig.key"), key).unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
}

#[test]
fn a_wrong_configuration_prints_every_problem_and_exits_78_before_a_port_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mxfleet.toml");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // The port is taken: had it been bound first, the problem told would be another.
    let address = port.local_addr().unwrap();
    let text = format!("[node]\nnaem = \"mx1\"\n[smtp]\nlisten = [\"{address}\"]\nspeed = 9\n");
    std::fs::write(&file, text).unwrap();
    let output = mxfleet(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let words = words(&output);
    for expected in [
        "line 2: there is no key node.naem; did you mean name?",
        "line 5: there is no key smtp.speed",
        "node.name is missing",
        "node.hostname is missing",
        "node.data_dir is missing",
    ] {
        assert!(words.contains(expected), "{expected:?} is not in:\n{words}");
    }
}

#[test]
fn a_configuration_that_is_not_there_exits_78() {
    let output = mxfleet(&["run", "--config", "/nonexistent/mxfleet.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(words(&output).contains("cannot read /nonexistent/mxfleet.toml"));
}

#[test]
fn wrong_usage_exits_2() {
    for args in [&["frobnicate"][..], &["domain", "add"], &["queue", "summary", "--output", "xml"]]
    {
        assert_eq!(mxfleet(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_command_without_a_node_says_how_to_name_one() {
    let output = mxfleet(&["queue", "summary"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("MXFLEET_ADMIN"));
    // A variable that is set to nothing says as much as none.
    let program = env!("CARGO_BIN_EXE_mxfleet");
    let mut command = Command::new(program);
    let output = command.args(["queue", "summary"]).env("MXFLEET_ADMIN", "").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("which node?"), "{}", words(&output));
    let output = mxfleet(&["--admin", "/nonexistent/admin.sock", "queue", "summary"]);
    assert_eq!(output.status.code(), Some(1));
    let words = words(&output);
    assert!(words.contains("no node answers at /nonexistent/admin.sock: No such"), "{words}");
    assert_eq!(words.matches("No such file").count(), 1, "said once: {words}");
}

#[test]
fn replies_and_reports_are_classified_a_json_line_each() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("replies");
    let text = "550 5.1.1 User unknown\n{\"reply\": \"550 5.1.1 User unknown\", \"stage\": \
                \"mail\"}\n450 4.2.1 busy\n550-5.1.1 no such\\n550 5.1.1 user\n";
    std::fs::write(&file, text).unwrap();
    let output = mxfleet(&["classify", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let rows = json_lines(&output);
    let classes: Vec<_> = rows.iter().map(|row| row["class"].as_str().unwrap()).collect();
    assert_eq!(classes, ["unknown_user", "other_permanent", "temporary", "unknown_user"]);
    assert!(rows.iter().all(|row| !row["why"].as_str().unwrap().is_empty()));
    assert_eq!(mxfleet(&["classify", "--stage", "nowhere"]).status.code(), Some(2));

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/dsn");
    let report = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let output = mxfleet(&["classify-dsn", report.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    for row in json_lines(&output) {
        for key in ["file", "recipient", "class", "status", "why"] {
            assert!(row.get(key).is_some(), "{key} is not in {row}");
        }
    }
}

fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
}
