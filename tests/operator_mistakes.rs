//! What an operator gets for a mistake: a clear sentence, a failing exit code, nothing changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use support::next_year;
use support::node::{Node, Setup};

/// Arguments, exit code, and words that must be in the answer.
type Case<'a> = (&'a [&'a str], i32, &'a str);

fn assert_refused(node: &Node, cases: &[Case<'_>]) {
    let tables =
        |node: &Node| ["customer", "domain", "settings"].map(|noun| node.json(&[noun, "list"]));
    let before = tables(node);
    for (arguments, code, words) in cases {
        let output = node.try_admin(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?} said {said:?}, not {words:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: words are for standard error");
    }
    assert_eq!(tables(node), before, "nothing was changed");
}

#[test]
fn domains_and_routes_that_cannot_work_are_refused_with_the_reason() {
    let node = Node::with(&Setup { production_routes: true, ..Setup::default() });
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let own = node.smtp().to_string();
    let domain = |name, route| {
        ["domain", "add", name, "--customer", "acme", "--route", route].map(str::to_owned)
    };
    let bad_routes = [
        (own.as_str(), "no mail can go to"),
        ("127.0.0.1:26", "no mail can go to"),
        ("[::1]:25", "no mail can go to"),
        ("localhost:25", "no mail can go to"),
        ("0.0.0.0:25", "no mail can go to"),
        ("169.254.169.254:25", "no mail can go to"),
        ("255.255.255.255:25", "no mail can go to"),
        ("mx1.relay.example:25", "mail would loop"),
        ("mail.acme.test:0", "is not a port"),
        ("mail.acme.test:99999", "is not a port"),
        ("mail acme.test:25", "neither a host name nor an IP address"),
        ("", "host:port"),
    ];
    for (route, words) in bad_routes {
        let arguments = domain("acme.test", route);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert_refused(&node, &[(&arguments, 1, words)]);
    }
    let bad_names = ["*.test", "ex ample", "a-.test", "a..test", "127.0.0.1", "xn--zzzzzz99.test"];
    for name in bad_names {
        let arguments = domain(name, "mail.acme.test:25");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert_refused(&node, &[(&arguments, 1, "is not a domain name")]);
    }
    let arguments = domain("mx1.relay.example", "mail.acme.test:25");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_refused(&node, &[(&arguments, 1, "a name of this fleet's own")]);
}

#[test]
fn customers_settings_and_queue_ids_are_checked() {
    let node = Node::start();
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let route = ["--customer", "acme", "--route", "127.0.0.1:9"];
    node.admin(&[&["domain", "add", "acme.test"][..], &route].concat());
    assert_refused(
        &node,
        &[
            (&["customer", "add", "acme", "--contact", "a@b.test"], 1, "already exists"),
            (&["customer", "add", "A B", "--contact", "a@b.test"], 1, "a customer id is"),
            (&["customer", "add", "new", "--contact", "nobody"], 1, "is not a mail address"),
            (&["customer", "add", "new", "--contact", "a\r\nBcc: x@b.test"], 1, "mail address"),
            (&["customer", "add", "new"], 2, "--contact"),
            (&["customer", "show", "nobody"], 1, "there is no customer nobody"),
            (&["domain", "add", "b.test", "--customer", "x", "--route", "mx"], 1, "no customer x"),
            (&["domain", "remove", "b.test"], 1, "there is no domain b.test"),
            (&["domain", "set", "acme.test", "--tls", "maybe"], 1, "a TLS policy is"),
            (&["settings", "set", "queue.lifetime", "soon"], 1, "is a duration such as"),
            (&["settings", "set", "queue.lifetime", "99999d"], 1, "must be"),
            (&["settings", "set", "queue.livetime", "5d"], 1, "there is no setting"),
            (&["settings", "set", "queue.retry_min", "2h"], 1, "and queue.retry_max is 1h; set"),
            (&["queue", "show", "nonsense"], 1, "is not a queue id"),
            (&["queue", "delete"], 2, "required"),
            (&["explain", "rcpt", "nonsense"], 1, "an @ and a domain"),
            (&["explain", "rcpt", "a@acme.test", "--from", "a b@c.test"], 1, "not allowed"),
        ],
    );
}

#[test]
fn an_import_with_one_bad_row_changes_nothing() {
    let node = Node::start();
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let file = node.folder().join("domains.csv");
    let import = ["domain", "import", file.to_str().unwrap()];
    let good = "name,customer,route\na.test,acme,mail.acme.test:25\nb.test,acme,mx\n";
    std::fs::write(&file, format!("{good}c.test,nobody,mx\n")).unwrap();
    assert_refused(&node, &[(&import, 1, "there is no customer nobody")]);
    std::fs::write(&file, format!("{good}c.test,acme\n")).unwrap();
    assert_refused(&node, &[(&import, 1, "nothing was changed")]);
    std::fs::write(&file, good).unwrap();
    assert_eq!(node.json(&import)["changed"], 2);
    assert_eq!(node.json(&import)["changed"], 0);
}

#[test]
fn what_would_exempt_or_freeze_nobody_is_refused() {
    let node = Node::start();
    node.serve("acme.test", "127.0.0.1:9");
    let until = |time| ["blacklist", "exempt", "ceo@acme.test", "--until", time];
    assert_refused(
        &node,
        &[
            (&until("2020-01-01T00:00:00Z"), 1, "the time of --until is past"),
            (&until("0s"), 1, "the time of --until is past"),
            (&until("soon"), 2, "is not a time such as"),
            (&until("9999d"), 2, "is more than two years from now"),
            (&["blacklist", "exempt", "who@nowhere.test"], 1, "is no domain of a customer"),
            (&["blacklist", "freeze", "nope.test"], 1, "nope.test is no domain of a customer"),
        ],
    );
    let exempt = |domain| node.json(&["blacklist", "list", "--exempt", "--domain", domain]);
    assert_eq!(exempt("acme.test"), serde_json::json!([]));
    node.admin(&until("5d"));
    let day = format!("{}-07-01", next_year());
    let more = ["blacklist", "exempt", "Boss@acme.test", "--reason", "asked us", "--until", &day];
    node.admin(&more);
    node.admin(&["blacklist", "exempt", "any@acme.test"]);
    let rows = exempt("acme.test");
    assert_eq!(
        rows[0],
        serde_json::json!({"address": "any@acme.test", "reason": "", "until": null})
    );
    assert_eq!(rows[1]["until"], format!("{day}T00:00:00Z"));
    assert_eq!(
        (&rows[1]["address"], &rows[1]["reason"]),
        (&"boss@acme.test".into(), &"asked us".into())
    );
    assert_eq!(rows[2]["address"], "ceo@acme.test");
    assert_eq!(exempt("other.test"), serde_json::json!([]));
    assert!(node.admin(&["blacklist", "list", "--exempt"]).contains("for ever"));
}

#[test]
fn a_change_of_the_queue_counts_what_was_changed_and_says_what_was_not() {
    let node = Node::start();
    node.serve("acme.test", "127.0.0.1:9");
    for _ in 0..3 {
        let reply = node.client().deliver("a@sender.test", &["u@acme.test"], b"Subject: x\r\n\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    let id = node.json(&["queue", "list"])[0]["id"].as_str().unwrap().to_owned();
    let says = |words: &[&str]| {
        let done = node.try_admin(&[&["queue"], words].concat());
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).unwrap()
    };
    assert_eq!(says(&["hold", &id]), "1 message(s) held\n");
    let before = "0 message(s) held; 1 stay as they were: held already\n";
    assert_eq!(says(&["hold", &id]), before);
    let held = "held; release them first\n";
    assert_eq!(says(&["retry", &id]), format!("0 message(s) due now; 1 stay as they were: {held}"));
    let all = says(&["retry", "--all"]);
    assert!(all.ends_with(&format!("message(s) due now; 1 stay as they were: {held}")), "{all}");
    let released = "1 message(s) released; 2 stay as they were: not held\n";
    assert_eq!(says(&["release", "--all"]), released);
    assert_eq!(says(&["release", &id]), "0 message(s) released; 1 stay as they were: not held\n");
}
