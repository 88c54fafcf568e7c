//! The health and metrics listeners answer, whoever else holds connections to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use support::SOON;
use support::node::{Node, Setup, http_get};
use support::process::output;

fn limited(limits: &[(&'static str, &str)]) -> Node {
    let limits = limits.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    Node::with(&Setup { limits, ..Setup::default() })
}

/// This process holds both ends' worth of descriptors, and more than a shell allows by default.
fn raise_open_files() {
    let id = std::process::id().to_string();
    output("prlimit", &["--pid", &id, "--nofile=20000:20000"]);
}

fn connect(server: SocketAddr, count: usize, word: &[u8]) -> Vec<TcpStream> {
    let one = |_| {
        let mut stream = TcpStream::connect(server).unwrap();
        // It may have been closed already, to make room.
        let _ = stream.write_all(word);
        stream
    };
    (0..count).map(one).collect()
}

/// Whether the server closes the connection before long.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn two_thousand_idle_connections_do_not_stop_health_and_metrics() {
    raise_open_files();
    let mut node = limited(&[("http_header_timeout_ms", "\"10m\"")]);
    // Some say nothing at all, some begin a request, some have been served and stay.
    let whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut idle = Vec::new();
    for server in [node.http(), node.metrics()] {
        for word in [&b""[..], b"GET /hea", whole] {
            idle.extend(connect(server, 2000, word));
            let path = if server == node.http() { "/healthz" } else { "/metrics" };
            let (status, _) = http_get(server, path).unwrap();
            assert_eq!(status, 200);
        }
    }
    let files = std::fs::read_dir(format!("/proc/{}/fd", node.process().id())).unwrap().count();
    assert!(files < 2 * 512 + 200, "{files} files are open");
    assert!(node.is_ready());
    let status = node.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn a_request_that_does_not_come_is_not_waited_for() {
    let node = limited(&[("http_header_timeout_ms", "200")]);
    for word in [&b""[..], b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let stream = connect(node.http(), 1, word).remove(0);
        assert!(is_closed(&stream), "after {:?}", word.escape_ascii().to_string());
    }
}

#[test]
fn a_header_without_end_is_refused() {
    let node = Node::start();
    let mut stream = connect(node.http(), 1, b"GET /healthz HTTP/1.1\r\n").remove(0);
    for _ in 0..10_000 {
        if stream.write_all(b"X-Header: 0123456789012345678901234567890123456789\r\n").is_err() {
            break;
        }
    }
    assert!(is_closed(&stream));
    assert!(node.is_ready());
}
