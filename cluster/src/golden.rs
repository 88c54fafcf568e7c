//! The bytes of everything that is kept or sent, compared with files of earlier versions.
//!
//! A changed file here is a changed format: nodes of two versions would not understand each other,
//! or a node not its own disk. `GOLDEN=write cargo test -p mxfleet-cluster golden` writes new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::testing::log_id;
use openraft::{EntryPayload, Membership};
use serde::Serialize;

use crate::codec::{self, Kind};
use crate::hex;
use crate::peer::Topic;
use crate::raft::{Batch, Entry, Peer, Replies, SnapshotMeta, Vote};
use crate::state::{
    Certificate, CertificateCommand, Command, Customer, CustomerStatus, Domain, DomainChange,
    Exemption, HostCommand, LinkCommand, MigrationCommand, NameCommand, NewHost, NoticeCommand,
    RecipientEvent, RecipientNews, RecipientPolicy, Refusal, Request, Secret, State, Survey,
    TlsPolicy, Told, TrafficCount,
};
use crate::transport::wire::{Answer, Ask, Call, Joined, Joining, Progress};

/// What the file has; with `GOLDEN` set it is written first.
fn golden(name: &str, found: &[u8]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, hex::encode(found) + "\n").unwrap();
    }
    std::fs::read_to_string(&path).unwrap().trim_end().to_owned()
}

fn check<T: Serialize>(name: &str, kind: Kind, value: &T) {
    let found = codec::encode(kind, value).unwrap();
    let golden = golden(name, &found);
    assert_eq!(hex::encode(&found), golden, "the format of {name} has changed");
}

/// What was packed by any version of the packer must be read; it need not be packed so again.
#[test]
fn what_was_packed_is_read() {
    let reply = "550 5.1.1 <nobody@acme.test>: Recipient address rejected: User unknown";
    let event = |at_ms| RecipientEvent::Rejected {
        address: format!("u{at_ms}@acme.test"),
        at_ms,
        reply: reply.to_owned(),
    };
    let events = (0..200).map(event).collect();
    let report = Command::BlacklistReport { node: 1, incarnation: 2, sequence: 3, events };
    let batch = codec::encode(Kind::Batch, &[Request::new(7, "mx1", 9, report)]).unwrap();
    let found = codec::pack(Kind::PackedBatch, &batch).unwrap();
    let golden = hex::decode(&golden("packed_batch", &found)).unwrap();
    assert!(golden.len() * 2 < batch.len() && codec::is_of(Kind::PackedBatch, &golden));
    assert_eq!(codec::unpack(Kind::PackedBatch, &golden), Ok(batch));
}

fn name() -> String {
    "acme".to_owned()
}

fn host() -> NewHost {
    let address = "192.0.2.1:7946".to_owned();
    NewHost {
        name: "mx2".to_owned(),
        address,
        version: "0.1.0".to_owned(),
        key: [3; 32],
        speaks: 1,
    }
}

fn domain() -> Domain {
    Domain {
        name: "acme.test".to_owned(),
        customer: name(),
        route: "mail.acme.test:25,[2001:db8::1]:2525".parse().unwrap(),
        tls: TlsPolicy::Pinned(vec!["mail.acme.test".to_owned()]),
        connections_max: Some(7),
        recipients: RecipientPolicy::default(),
    }
}

fn customer() -> Customer {
    let contacts = vec!["ops@acme.test".to_owned()];
    Customer { id: name(), name: "Acme".to_owned(), contacts, status: CustomerStatus::Suspended }
}

/// Every command, in the order of the enum.
fn commands() -> Vec<Command> {
    let address = || "someone@acme.test".to_owned();
    let rejected = RecipientEvent::Rejected {
        address: address(),
        at_ms: 1_700_000_000_000,
        reply: "550 5.1.1 User unknown".to_owned(),
    };
    let accepted = RecipientEvent::Accepted { address: address() };
    let exemption = Exemption { reason: "known".to_owned(), until_ms: Some(5) };
    let change = DomainChange { connections_max: Some(None), ..DomainChange::default() };
    vec![
        Command::CustomerAdd(customer()),
        Command::CustomerSet { id: name(), name: Some(name()), contacts: None },
        Command::CustomerStatus { id: name(), status: CustomerStatus::Active },
        Command::CustomerRemove { id: name() },
        Command::DomainAdd(domain()),
        Command::DomainSet { name: name(), change },
        Command::DomainRemove { name: name() },
        Command::DomainImport { domains: vec![domain()] },
        Command::SettingSet { name: name(), value: Some("5d".to_owned()) },
        Command::HostFound { host: host(), seed: 9 },
        Command::HostToken { hash: [1; 32], name: name(), expires_ms: 1_700_000_000_006 },
        Command::HostJoin { token: [2; 32], host: host() },
        Command::HostAnnounce { id: 2, address: name(), version: name(), speaks: 1 },
        Command::HostPrefer { name: name(), preferred: true },
        Command::HostRemove { name: name(), force: true },
        Command::Tick,
        Command::BlacklistReport {
            node: 1,
            incarnation: 2,
            sequence: 3,
            events: vec![rejected, accepted],
        },
        Command::BlacklistPardon { address: address() },
        Command::BlacklistExempt { address: address(), exemption: Some(exemption) },
        Command::BlacklistFreeze { domain: name(), frozen: true },
        Command::DomainStage { import: 104, part: 0, domains: vec![domain()] },
        Command::DomainCommit { import: 104, parts: 1 },
        Command::ClusterVersion { to: 1 },
        Command::RecipientNews { news: news() },
        Command::RecipientsStage { upload: 5, part: 0, entries: vec![name()] },
        Command::RecipientsStage { upload: 6, part: 0, entries: vec![name(), "a*".to_owned()] },
        Command::DomainAdd(Domain { name: "list.test".to_owned(), ..domain() }),
        Command::RecipientsCommit { domain: "list.test".to_owned(), upload: 6, parts: 1 },
        Command::RecipientsRemove { domain: name() },
        Command::ReturnKeyAdd { number: 1, secret: Secret::new([4; 32]) },
        Command::DomainAdd(Domain { name: "tagged.test".to_owned(), ..domain() }),
        Command::ReturnPathSet { domain: "tagged.test".to_owned(), tagged: true },
    ]
    .into_iter()
    .chain(rotation())
    .collect()
}

/// A migration from its plan to its end.
fn migrations(at_ms: u64) -> Vec<MigrationCommand> {
    let (host, title) = (|| "mx2".to_owned(), || "Names change".to_owned());
    let told = Told::Bounced { at_ms, why: "550 no".to_owned() };
    vec![
        MigrationCommand::Plan {
            retire: Vec::new(),
            introduce: vec![("mx-b.relay.test".to_owned(), host())],
            ends_ms: at_ms,
            text: "why".to_owned(),
        },
        MigrationCommand::Announce { title: title(), text: title() },
        MigrationCommand::Told { rows: vec![("acme".to_owned(), 1, told)] },
        MigrationCommand::Surveyed {
            migration: 1,
            rows: vec![(
                "acme".to_owned(),
                Survey::Moved { at_ms },
                vec!["mx-c.relay.test".to_owned()],
            )],
        },
        MigrationCommand::Remind,
        MigrationCommand::Finish { force: true },
        MigrationCommand::Cancel,
        MigrationCommand::Overdue,
    ]
}

/// The newer commands, in an order in which they take effect.
fn rotation() -> Vec<Command> {
    let name = || "mx-a.relay.test".to_owned();
    let (host, at_ms) = (|| "mx2".to_owned(), 1_800_000_000_000);
    let at = || vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let service = |command| Command::HostService(command);
    let moves = || vec![(name(), host())];
    let zone = Some("relay.test".to_owned());
    let counts =
        vec![TrafficCount { customer: "acme".to_owned(), name: Some(name()), messages: 9 }];
    let title = || "Names change".to_owned();
    let (starts_ms, ends_ms) = (Some(at_ms), Some(at_ms + 1));
    let names = vec![
        NameCommand::Add { name: name(), host: host(), from_ms: None },
        NameCommand::Published { name: name(), host: Some(1), ttl_s: 60, addresses: at() },
        NameCommand::Point { moves: moves(), from_ms: Some(at_ms), rehome: true },
        NameCommand::Stay { name: name() },
        NameCommand::Retire { name: name(), at_ms },
        NameCommand::Keep { name: name() },
        NameCommand::Remove { name: name(), force: false },
        NameCommand::DnsFaults { all: Some(title()), names: vec![(name(), title())] },
        NameCommand::Telling { ttls: vec![(name(), 3600)] },
    ];
    let (text, component) = (title(), None);
    let notices = vec![
        NoticeCommand::Open { title: title(), text, component, starts_ms, ends_ms },
        NoticeCommand::Update { id: 1, text: title(), starts_ms: None, ends_ms: None },
        NoticeCommand::Resolve { id: 1, text: None },
    ];
    let zone = Command::SettingSet { name: "rotation.zone".to_owned(), value: zone };
    [zone, service(HostCommand::Set { name: host(), addresses: at() })]
        .into_iter()
        .chain(names.into_iter().map(Command::Name))
        .chain([
            Command::Assign { customer: "acme".to_owned(), names: vec![name()] },
            Command::Traffic { counts },
        ])
        .chain(migrations(at_ms).into_iter().map(Command::Migration))
        .chain(notices.into_iter().map(Command::Notice))
        .chain(certificates())
        .chain([
            service(HostCommand::Drain { name: host(), deadline_ms: None, moves: moves() }),
            service(HostCommand::MailLeft { id: 1, messages: 5 }),
            service(HostCommand::Resume { name: host() }),
            service(HostCommand::Retire { name: host(), force: true, moves: Vec::new() }),
        ])
        .chain(links())
        .collect()
}

/// A name in DNS has a certificate, one with another key waits, and a third key was there before.
fn certificates() -> Vec<Command> {
    let (name, other) = (|| "mx-c.relay.test".to_owned(), || "mx.else.test".to_owned());
    let put = |names: Vec<String>, key| {
        Command::Certificate(CertificateCommand::Put(Certificate {
            names,
            chain_pem: "chain".to_owned(),
            sealed_key: vec![7],
            key_hash: [key; 32],
            ends_ms: 1_800_000_000_000,
        }))
    };
    let (host, at) = ("mx2".to_owned(), || vec!["192.0.2.1".parse().unwrap()]);
    let (tlsa, publish) = ("rotation.tlsa".to_owned(), Some("publish".to_owned()));
    let (key_hash, text) = ([2; 32], Some("denied".to_owned()));
    let certificates = [
        CertificateCommand::KeyInDns { name: name(), key_hash, is_in_dns: true },
        CertificateCommand::TakePlace { name: name(), key_hash },
        CertificateCommand::Remove { name: other() },
        CertificateCommand::KeysOutOfDns { names: vec![name()] },
        CertificateCommand::Fault { name: name(), text },
    ];
    let before = [
        Command::Name(NameCommand::Add { name: name(), host, from_ms: None }),
        Command::Name(NameCommand::Published {
            name: name(),
            host: Some(1),
            ttl_s: 60,
            addresses: at(),
        }),
        put(vec![name()], 1),
        put(vec![other(), name()], 1),
        Command::SettingSet { name: tlsa, value: publish },
        put(vec![name()], 2),
    ];
    before.into_iter().chain(certificates.map(Command::Certificate)).collect()
}

fn links() -> [Command; 5] {
    let (hash, address) = ([6; 32], "someone@acme.test".to_owned());
    let issue = |hash| LinkCommand::Issue { hash, customer: "acme".to_owned(), by_mail: true };
    [
        Command::CustomerAdd(customer()),
        Command::CustomerLink(issue(hash)),
        Command::CustomerLink(issue([8; 32])),
        Command::CustomerLink(LinkCommand::Pardon { hash, address }),
        Command::CustomerLink(LinkCommand::End { hash }),
    ]
}

fn news() -> Vec<RecipientNews> {
    let address = || "someone@acme.test".to_owned();
    vec![
        RecipientNews::Taken { address: address(), at_ms: 7 },
        RecipientNews::Answered { address: address(), is_known: true, version: 5, at_ms: 7 },
        RecipientNews::CatchAll {
            domain: "acme.test".to_owned(),
            is_catch_all: false,
            version: 5,
            at_ms: 7,
        },
    ]
}

fn requests() -> Vec<Request> {
    let request = |(id, command)| Request::new(id, "ops", 1_700_000_000_000, command);
    let mut all: Vec<_> = (1..).zip(commands()).map(request).collect();
    all[0].expected_version = Some(0);
    all
}

fn entry() -> Entry {
    let batch = Batch::new(&requests()[..1]).unwrap();
    Entry { log_id: log_id(3, 2, 40), payload: EntryPayload::Normal(batch) }
}

fn meta() -> SnapshotMeta {
    let peer = Peer { name: "mx1".to_owned(), address: "192.0.2.1:7946".to_owned() };
    let members = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, peer)]));
    SnapshotMeta {
        last_log_id: Some(log_id(3, 2, 40)),
        last_membership: crate::raft::Membership::new(Some(log_id(1, 1, 1)), members),
        snapshot_id: "3-40".to_owned(),
    }
}

#[test]
fn what_is_kept_has_the_format_it_always_had() {
    check("requests", Kind::Batch, &requests());
    check("entry", Kind::Entry, &entry());
    check("vote", Kind::Meta, &Vote::new_committed(3, 2));
    check("log_id", Kind::Meta, &log_id::<u64>(3, 2, 40));
    check("snapshot_meta", Kind::SnapshotHead, &meta());
    let mut state = State::default();
    for (index, request) in (1..).zip(requests()) {
        let _ = state.apply(index, &request); // refusals are part of the state too
    }
    for (at, part) in state.parts().enumerate() {
        check(&format!("part_{at}"), Kind::SnapshotPart, &part);
    }
}

#[test]
fn what_is_sent_has_the_format_it_always_had() {
    let append = AppendEntriesRequest {
        vote: Vote::new_committed(3, 2),
        prev_log_id: Some(log_id(3, 2, 39)),
        entries: vec![entry()],
        leader_commit: Some(log_id(3, 2, 38)),
    };
    let joining = Joining { token: [1; 32], host: host(), csr: vec![1, 2] };
    let asks = [
        Ask::Append(append),
        Ask::Vote(VoteRequest { vote: Vote::new(4, 1), last_log_id: None }),
        Ask::Snapshot { vote: Vote::new_committed(3, 2), meta: meta() },
        Ask::Propose(requests().swap_remove(0).into()),
        Ask::Members,
        Ask::KeepKey { pem: "pem".to_owned() },
        Ask::Renew { csr: vec![1] },
        Ask::Join(joining),
        Ask::Peer { topic: Topic::HAND_OVER, body: vec![1, 2] },
        Ask::Vault,
    ];
    for (at, ask) in asks.into_iter().enumerate() {
        check(&format!("ask_{at}"), Kind::Call, &Call { fleet: 7, from: 2, to: 1, ask });
    }
    let joined = Joined { fleet: 7, node: 2, authority: vec![1], certificate: vec![2] };
    let refusal = Refusal::Conflict("it exists".to_owned());
    let answers = [
        Answer::Append(AppendEntriesResponse::Success),
        Answer::Proposed { index: 40, outcome: Err(refusal.clone()) },
        Answer::Members(vec![Progress { node: 1, lag_entries: 2, silent_ms: Some(3) }]),
        Answer::Done,
        Answer::Signed { certificate: vec![1] },
        Answer::Joined(joined),
        Answer::NotLeader { leader: Some(2) },
        Answer::NoQuorum,
        Answer::Unknown,
        Answer::Refused("no".to_owned()),
        Answer::Peer { body: vec![3] },
        Answer::Vault { key: [4; 32] },
    ];
    for (at, answer) in answers.iter().enumerate() {
        check(&format!("answer_{at}"), Kind::Answer, answer);
    }
    check("replies", Kind::Answer, &Replies(vec![Ok(1), Err(refusal)]));
}
