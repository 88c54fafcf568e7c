//! The admin API as a program may use it, rightly and wrongly: an answer that says what is wrong,
//! and nothing changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::SOON;
use support::fleet::Fleet;
use support::node::{Node, http_get};

const CALL: &str = "/api/v1/admin/call";
const JSON: &str = "Content-Type: application/json\r\n";
/// The longest a change may wait where nothing can be agreed on, and some time to say so.
const DEADLINE: Duration = Duration::from_secs(6);

/// Post a body with these headers; the head of the answer, and its body.
fn post(node: &Node, headers: &str, body: &[u8]) -> (String, String) {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let length = body.len();
    let head = format!(
        "POST {CALL} HTTP/1.1\r\nHost: node\r\n{headers}Content-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses the length does not read on.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    (head.to_owned(), body.to_owned())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn customer(name: &str) -> Vec<u8> {
    let call = serde_json::json!({
        "call": "customer_add", "id": "acme", "name": name, "contacts": ["ops@acme.test"]
    });
    call.to_string().into_bytes()
}

#[test]
fn a_body_that_is_no_call_is_refused_in_plain_words_and_changes_nothing() {
    let node = Node::start();
    let deep = [b"[".repeat(1000), b"]".repeat(1000)].concat();
    let zipped = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let doubled = br#"{"call":"customer_add","id":"a","id":"b","name":"A","contacts":["a@b.c"]}"#;
    let list = |limit: &str| format!(r#"{{"call":"queue_list","limit":{limit}}}"#).into_bytes();
    let cases: [(&str, &[u8], &[u16]); 14] = [
        (JSON, b"", &[400]),
        (JSON, b"null", &[422]),
        (JSON, b"{\"call\":\"customer_list\"", &[400]),
        (JSON, b"{\"call\":\"no_such_call\"}", &[422]),
        (JSON, b"\xff\xfe", &[400]),
        (JSON, &deep, &[400, 422]),
        (JSON, doubled, &[422]),
        (JSON, &list("NaN"), &[400]),
        (JSON, &list("1e999"), &[400, 422]),
        (JSON, &list("18446744073709551616"), &[422]),
        (JSON, &list("-1"), &[422]),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", &zipped, &[400, 415]),
        ("Content-Type: text/plain\r\n", &customer("Acme"), &[415]),
        ("", &customer("Acme"), &[415]),
    ];
    for (headers, body, wanted) in cases {
        let (head, words) = post(&node, headers, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert!(wanted.contains(&status(&head)), "{shown}: {head}");
        assert!(words.len() > 10 && words.len() < 2000, "{shown}: {words}");
    }
    let unending = format!("{JSON}X-Request-Id: zz\r\n");
    let (head, words) = post(&node, &unending, &customer("Acme"));
    assert_eq!(status(&head), 422, "{words}");
    assert_eq!(node.json(&["customer", "list"]), serde_json::json!([]));
    let (head, words) = post(&node, JSON, &customer("Acme"));
    assert_eq!(status(&head), 200, "{words}");
}

#[test]
fn a_body_larger_than_any_call_is_refused() {
    let node = Node::start();
    let (head, words) = post(&node, JSON, &vec![b' '; 65 * 1024 * 1024]);
    assert_eq!(status(&head), 413, "{words}");
    assert_eq!(status(&post(&node, JSON, &customer("Acme")).0), 200);
}

#[test]
fn only_the_nodes_user_gets_at_it_and_only_by_its_socket() {
    let node = Node::start();
    let mode = std::fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for listener in [node.http(), node.metrics()] {
        assert_eq!(http_get(listener, CALL).unwrap().0, 404, "{listener}");
        let body = customer("Acme");
        let mut stream = TcpStream::connect(listener).unwrap();
        let length = body.len();
        let head = format!(
            "POST {CALL} HTTP/1.1\r\nHost: {listener}\r\n{JSON}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 4"), "{listener}: {answer}");
    }
    assert_eq!(node.json(&["customer", "list"]), serde_json::json!([]));
}

#[test]
fn a_text_that_would_forge_a_line_or_move_a_cursor_is_refused() {
    let node = Node::start();
    for bad in ["A\r\nB", "A\nB", "A\u{1b}[2J", "A\u{0}", "A\u{7f}", "A\u{85}B"] {
        let (head, words) = post(&node, JSON, &customer(bad));
        assert_eq!(status(&head), 422, "{bad:?}: {words}");
        assert!(!words.contains(bad), "{words:?} has it raw");
        for arguments in [
            &["customer", "add", "b", "--contact", "a@b.test", "--name", bad][..],
            &["notice", "open", "--title", bad, "--text", "t"],
            &["notice", "open", "--title", "t", "--text", "t", "--component", bad],
            &["customer", "add", bad, "--contact", "a@b.test"],
            &["settings", "set", "service.address", bad],
        ] {
            if bad.contains('\0') {
                continue; // no argument can have it
            }
            let refused = node.try_admin(arguments);
            assert_ne!(refused.status.code(), Some(0), "{arguments:?}");
            let said = String::from_utf8(refused.stderr).unwrap();
            assert!(!said.contains(bad), "{arguments:?} said {said:?}");
        }
    }
    assert_eq!(node.json(&["customer", "list"]), serde_json::json!([]));
    assert_eq!(node.json(&["notice", "list"]), serde_json::json!([]));
}

#[test]
fn where_nothing_can_be_agreed_on_a_change_is_refused_in_time_and_may_be_tried_again() {
    let mut fleet = Fleet::start(3);
    fleet.nodes[1].kill();
    fleet.nodes[2].kill();
    let start = std::time::Instant::now();
    let (head, words) = post(&fleet.nodes[0], JSON, &customer("Acme"));
    assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
    assert_eq!(status(&head), 503, "{words}");
    assert!(head.to_ascii_lowercase().contains("\r\nretry-after: "), "{head}");
    let (head, words) = post(&fleet.nodes[0], JSON, b"{\"call\":\"customer_list\"}");
    assert_eq!((status(&head), words.as_str()), (200, "[]"), "reading goes on");
}
