//! What a customer reads, and that nothing in it is taken for markup.

use std::sync::Arc;

use mxfleet_cluster::{
    Cluster, Command, CustomerStatus, HostCommand, LinkCommand, MigrationCommand, NameCommand,
    Request, random_id,
};

use super::super::board::{Board, Seen};
use super::gather::{Domain, Gathered, Refusal, Refusals};
use super::records::Changes;
use super::*;
use crate::account::{Found, Suppressed};
use crate::fleet::tests::new_host;
use crate::fleet_wide::{Heard, NoAnswer};
use crate::telemetry::journal::JournalLine;

const NOW_MS: u64 = 1_272_463_200_000; // 28 April 2010, 14:00 UTC
const HOUR_MS: u64 = 3_600_000;
const HOSTILE: &str = "<script>alert(1)</script> \"'&";

/// A fleet of two hosts with a name each, a customer with both, and what was commanded since.
async fn known(commands: Vec<Command>) -> Known {
    let cluster = Cluster::detached();
    let secret = LinkSecret::new().unwrap();
    let setting = |name: &str, value: &str| Command::SettingSet {
        name: name.to_owned(),
        value: Some(value.to_owned()),
    };
    let reached = |n: u8| {
        let addresses = vec![[192, 0, 2, n].into()];
        Command::HostService(HostCommand::Set { name: format!("mx{n}"), addresses })
    };
    let named = |name: &str, n: u8| {
        let (name, host) = (format!("{name}.relay.test"), Some(u64::from(n)));
        let add = NameCommand::Add { name: name.clone(), host: format!("mx{n}"), from_ms: None };
        let addresses = vec![[192, 0, 2, n].into()];
        [add, NameCommand::Published { name, host, ttl_s: 60, addresses }].map(Command::Name)
    };
    let customer = Customer {
        id: "acme".to_owned(),
        name: HOSTILE.to_owned(),
        contacts: vec!["ops@acme.test".to_owned()],
        status: CustomerStatus::Active,
    };
    let (hash, name) = ([9; 32], "mx2".to_owned());
    let expires_ms = NOW_MS + HOUR_MS / 2;
    let (issued, of) = (secret.hash(), "acme".to_owned());
    let issue = LinkCommand::Issue { hash: issued, customer: of, by_mail: false };
    let all = [
        Command::HostFound { host: new_host(1), seed: 1 },
        Command::HostToken { hash, name, expires_ms },
        Command::HostJoin { token: hash, host: new_host(2) },
        setting("rotation.zone", "relay.test"),
        setting("service.address", "support@relay.test"),
        reached(1),
        reached(2),
    ]
    .into_iter()
    .chain(named("mx-a", 1))
    .chain(named("mx-b", 2))
    .chain([Command::CustomerAdd(customer), Command::CustomerLink(issue)])
    .chain(commands);
    for command in all {
        let request = Request::new(random_id(), "test", NOW_MS, command.clone());
        cluster.propose(request).await.unwrap().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    }
    let tables = cluster.view();
    let (customer, ends_ms) = tables.customer_of_link(&secret.hash(), NOW_MS).unwrap();
    let customer = customer.clone();
    Known { secret, customer, ends_ms, tables }
}

fn read(known: &Known, gathered: &Gathered, agreed_ms_ago: Option<u64>) -> String {
    let state = Arc::clone(&known.tables);
    let from = "mx1".to_owned();
    let seen = Seen { state, members: Vec::new(), from, agreed_ms_ago, now_ms: NOW_MS };
    view::render(&Board::judge(seen), known, gathered).into_string()
}

fn gathered() -> Gathered {
    let line = |minute: u64| JournalLine {
        at: format!("2010-04-28T13:{minute:02}:00Z"),
        id: "1".to_owned(),
        from: HOSTILE.to_owned(),
        to: format!("u{minute}@acme.test"),
        outcome: "suppressed".to_owned(),
        because: None,
        report: None,
        dsn: "5.1.1".to_owned(),
        reply: HOSTILE.to_owned(),
    };
    let found = |minutes: [u64; 2], since: Option<&str>| Found {
        messages: 2,
        oldest_seconds: Some(60 * minutes[0]),
        suppressed: Suppressed {
            counts: vec![("acme.test".to_owned(), 20)],
            newest: minutes.map(line).to_vec(),
            since: since.map(str::to_owned),
        },
        ..Found::default()
    };
    let heard = |node: &str, answer| Heard { node: node.to_owned(), answer };
    let domain = Domain {
        name: "acme.test".to_owned(),
        route: HOSTILE.to_owned(),
        messages: 4,
        oldest_seconds: Some(7200),
        error: Some(HOSTILE.to_owned()),
        records: Some(Ok(Changes { add: vec![HOSTILE.to_owned()], remove: Vec::new() })),
    };
    let refusal = |address: &str, until_ms| Refusal {
        address: address.to_owned(),
        last_ms: NOW_MS - HOUR_MS,
        times: 2,
        until_ms,
    };
    Gathered {
        now_ms: NOW_MS,
        domains: vec![domain],
        more_domains: 3,
        listed: Refusals { rows: vec![refusal(HOSTILE, Some(NOW_MS + HOUR_MS))], more: 5 },
        refused: Refusals { rows: vec![refusal("new@acme.test", None)], more: 0 },
        heard: vec![
            heard("mx1", Ok(found([10, 30], None))),
            heard("mx2", Ok(found([120, 20], Some("2010-04-28T01:00:00Z")))),
            heard("mx3", Err(NoAnswer::Late(4))),
        ],
    }
}

#[tokio::test]
async fn all_that_is_known_is_shown_and_none_of_it_is_markup() {
    let known = known(Vec::new()).await;
    let page = read(&known, &gathered(), Some(0));
    let path = known.secret.path();
    for part in [
        "4 messages wait for them, the oldest for 2 hours.",
        "<strong>mx3</strong> did not answer within 4 seconds",
        "4 waiting, the oldest for 2 hours",
        "And 3 more, those with least mail.",
        "28 Apr 2010, 15:00 UTC",
        "refused 2 times, last ",
        "And 5 more.",
        "<strong>40</strong><code>acme.test</code>",
        "only what came after 2010-04-28T01:00:00Z is counted",
        &format!("<form action=\"{path}/pardon\" method=\"post\">"),
        &format!("href=\"{path}/tools/mx?domain=acme.test\""),
        "This link is good until <time datetime=\"2010-04-29T14:00:00Z\">",
        "<code>mx-a.relay.test</code><span>in use</span>",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    // The newest failure stands first, whichever node has it.
    let at = |to: &str| page.find(to).unwrap();
    assert!(at("u30@acme.test") < at("u20@acme.test") && at("u20@acme.test") < at("u10@"));
    assert!(!page.contains("<script") && !page.contains("To be done"), "{page}");
}

#[tokio::test]
async fn a_suspended_customer_looks_and_has_no_button() {
    let suspend =
        Command::CustomerStatus { id: "acme".to_owned(), status: CustomerStatus::Suspended };
    let known = known(vec![suspend]).await;
    let page = read(&known, &gathered(), Some(0));
    assert!(page.contains("Your service is suspended") && page.contains("new@acme.test"));
    assert!(page.contains("mailto:support@relay.test") && !page.contains("Pardon "), "{page}");
}

#[tokio::test]
async fn old_news_and_nothing_at_all_are_said() {
    let known = known(Vec::new()).await;
    let page = read(&known, &Gathered { now_ms: NOW_MS, ..Gathered::default() }, Some(600_000));
    for part in ["last agreed 10 minutes ago", "No mail waits for them.", " None.</p>"] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
}

#[tokio::test]
async fn a_migration_says_what_is_to_be_done_and_until_when() {
    let plan = MigrationCommand::Plan {
        retire: vec!["mx-a.relay.test".to_owned()],
        introduce: vec![("mx-c.relay.test".to_owned(), "mx1".to_owned())],
        ends_ms: NOW_MS + 24 * HOUR_MS,
        text: "why".to_owned(),
    };
    let words = || "Names change".to_owned();
    let announce = MigrationCommand::Announce { title: words(), text: words() };
    let moved = mxfleet_cluster::Survey::Moved { at_ms: NOW_MS - HOUR_MS };
    let surveyed = MigrationCommand::Surveyed {
        migration: 1,
        rows: vec![("acme".to_owned(), moved, Vec::new())],
    };
    let steps = [plan, announce].map(Command::Migration).to_vec();
    let before = known(steps.clone()).await;
    let page = read(&before, &gathered(), Some(0));
    for part in [
        "MX names change, and some of them are yours. We will write to you about it.",
        "<code>mx-a.relay.test</code><span>ends <time datetime=\"2010-04-29T14:00:00Z\">",
        "<code>mx-c.relay.test</code><span>is new: add it",
        "Your records have not been seen yet.",
        "not yours any more",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    let after = known([steps, vec![Command::Migration(surveyed)]].concat()).await;
    let page = read(&after, &gathered(), Some(0));
    assert!(page.contains("Your records were seen without the names that end, 1 hour ago."));
}
