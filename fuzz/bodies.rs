//! What each fuzz target checks. `tests/fuzz_twins.rs` runs the same bodies in every test run.
//!
//! `fuzz/run` looks for new inputs, guided by what of the code they reach, with the stable
//! toolchain.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;
use mail_auth::spf::{Macro, Mechanism, Spf, Variables};
use mxfleet::authentication::Evidence;
use mxfleet::config::Limits;
use mxfleet::returns::Tag;
use mxfleet::session::{ForgedResults, Framed, LineReader};
use mxfleet::smtp::command;
use mxfleet::smtp::dots::DataScanner;
use mxfleet::smtp::envelope::Origin;
use mxfleet::smtp::parse::ReplyParser;
use mxfleet::smtp::{Address, BodyType, Envelope, Recipient};
use mxfleet::spool::sim_fs::SimFs;
use mxfleet::spool::{EntryId, Message, Spool, SpoolConfig};
use mxfleet::verdict::classify_dsn;

/// The first octet of the input says how the rest is cut.
fn pieces(data: &[u8]) -> Option<(&[u8], std::slice::Chunks<'_, u8>)> {
    let (&size, rest) = data.split_first()?;
    Some((rest, rest.chunks(usize::from(size).max(1))))
}

/// Commands: the same lines however the network cut them, and no line makes the parser panic.
pub(crate) fn command(data: &[u8]) {
    let Some((whole, cut)) = pieces(data) else { return };
    let lines = lines(std::iter::once(whole));
    assert_eq!(lines, self::lines(cut), "cutting changes the lines");
    for line in lines.iter().filter_map(|(_, line)| line.strip_suffix(b"\r\n")) {
        for utf8 in [false, true] {
            let first = format!("{:?}", command::parse(line, utf8));
            assert_eq!(first, format!("{:?}", command::parse(line, utf8)));
        }
    }
}

/// What the reader finds; lines with their octets.
fn lines<'a>(input: impl Iterator<Item = &'a [u8]>) -> Vec<(Framed, Vec<u8>)> {
    let (mut reader, mut buffer, mut found) = (LineReader::default(), Vec::new(), Vec::new());
    for piece in input {
        buffer.extend_from_slice(piece);
        loop {
            match reader.next(&buffer, 64, 1024) {
                framed @ Framed::Line(octets) => {
                    found.push((framed, buffer.drain(..octets).collect()));
                }
                // How long it was depends on when it was seen to be too long.
                Framed::TooLong(octets) => {
                    buffer.drain(..octets);
                    found.push((Framed::TooLong(0), Vec::new()));
                }
                Framed::More { discard } => {
                    buffer.drain(..discard);
                    break;
                }
                end => {
                    found.push((end, Vec::new()));
                    return found;
                }
            }
        }
    }
    found
}

/// Addresses: what is taken is clean, and is taken again as it is written.
pub(crate) fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for utf8 in [false, true] {
        let Ok(address) = Address::parse(text, utf8) else { continue };
        let written = address.as_str();
        assert!(!written.chars().any(char::is_control), "{written:?}");
        assert!(utf8 || written.is_ascii(), "{written:?}");
        assert_eq!(Address::parse(written, utf8).as_ref(), Ok(&address));
    }
}

/// Replies: the same ones however they were cut, within the bounds.
pub(crate) fn reply(data: &[u8]) {
    let Some((whole, cut)) = pieces(data) else { return };
    let replies = replies(std::iter::once(whole));
    assert_eq!(replies, self::replies(cut), "cutting changes the replies");
}

fn replies<'a>(input: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut parser, mut found) = (ReplyParser::new(512, 16), Vec::new());
    for mut piece in input {
        while !piece.is_empty() {
            match parser.push(piece) {
                Ok((taken, reply)) => {
                    piece = &piece[taken..];
                    found.extend(reply.map(|reply| format!("{reply:?}")));
                }
                Err(garbage) => {
                    found.push(format!("{garbage:?}"));
                    return found;
                }
            }
        }
    }
    found
}

/// Texts: the end and the flaws are the same however they were cut, and only CRLF.CRLF ends one.
pub(crate) fn text(data: &[u8]) {
    let Some((whole, cut)) = pieces(data) else { return };
    let found = ending(std::iter::once(whole));
    assert_eq!(found, ending(cut), "cutting changes the end");
    let expected = if whole.starts_with(b".\r\n") {
        Some(3)
    } else {
        whole.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5)
    };
    assert_eq!(found.0, expected);
}

/// Octets up to the end of the data, if it is there, and what was wrong with the text.
fn ending<'a>(input: impl Iterator<Item = &'a [u8]>) -> (Option<usize>, String) {
    let (mut scanner, mut before, mut buffer) = (DataScanner::default(), 0, Vec::new());
    for piece in input {
        buffer.extend_from_slice(piece);
        let scan = scanner.scan(&buffer);
        before += scan.consumed;
        buffer.drain(..scan.consumed);
        if scan.end {
            return (Some(before), format!("{:?}", scanner.flaws()));
        }
    }
    (None, format!("{:?}", scanner.flaws()))
}

/// Reports of other servers, as they come to our return paths: whatever they are, they are read in
/// bounds, and twice the same.
pub(crate) fn report(data: &[u8]) {
    let found = classify_dsn(data);
    assert!(found.len() <= 1000);
    assert_eq!(found, classify_dsn(data));
    let text = String::from_utf8_lossy(data);
    for word in text.split_whitespace() {
        assert!(Tag::open(&[], word).is_err(), "nobody has signed it");
    }
}

/// What strangers publish for SPF and DKIM: whatever it is, it is read and filled in.
pub(crate) fn record(data: &[u8]) {
    let mut variables = Variables::new();
    variables.set_ip(&std::net::Ipv4Addr::LOCALHOST.into());
    variables.set_sender(data);
    for set in [Variables::set_domain, Variables::set_helo_domain, Variables::set_host_domain] {
        set(&mut variables, data);
    }
    let _ = DomainKey::parse(&[b"v=DKIM1; ", data].concat()).map(|key| key.p.public_key_bits());
    let mut filled = Macro::parse(data).ok().into_iter().collect::<Vec<_>>();
    if let Ok(spf) = Spf::parse(&[b"v=spf1 ", data].concat()) {
        filled.extend(spf.redirect.clone().into_iter().chain(spf.exp.clone()));
        filled.extend(spf.directives.iter().filter_map(|directive| match &directive.mechanism {
            Mechanism::Include { macro_string }
            | Mechanism::A { macro_string, .. }
            | Mechanism::Mx { macro_string, .. }
            | Mechanism::Ptr { macro_string }
            | Mechanism::Exists { macro_string } => Some(macro_string.clone()),
            Mechanism::All | Mechanism::Ip4 { .. } | Mechanism::Ip6 { .. } => None,
        }));
    }
    for text in filled {
        for fqdn in [false, true] {
            std::hint::black_box(text.eval(&variables, "a.test", fqdn));
        }
    }
}

/// Headers: what is taken out of them, and which signatures are seen in them, is the same however
/// they were cut.
pub(crate) fn header(data: &[u8]) {
    let Some((whole, cut)) = pieces(data) else { return };
    let found = passed(std::iter::once(whole));
    assert!(found.0.len() <= whole.len());
    assert_eq!(found, passed(cut), "cutting changes it");
}

/// What stays of a text, and what is seen of its signatures.
fn passed<'a>(input: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, String) {
    let mut forged = ForgedResults::new(&["mx1.test".to_owned()]);
    let (mut evidence, mut kept) = (Evidence::new("a.test", 512, 3), Vec::new());
    for piece in input {
        evidence.see(piece);
        let rest = forged.pass(piece, &mut kept);
        kept.extend_from_slice(rest);
    }
    kept.extend_from_slice(forged.finish());
    let sealed = evidence.seal();
    let message = sealed.as_ref().and_then(|sealed| sealed.message());
    let seen = message.map(|message| format!("{:?} {:?}", message.headers, message.body_hashes));
    (kept, seen.unwrap_or_default())
}

/// A spool with some messages: its disk, the segment files, the texts.
struct Base {
    disk: SimFs,
    segments: Vec<PathBuf>,
    texts: BTreeMap<EntryId, Vec<u8>>,
}

static BASE: LazyLock<Base> = LazyLock::new(|| block_on(base()));

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

fn config() -> SpoolConfig {
    let limits = Limits {
        segment_octets: 1 << 20,
        disk_reserve_octets: 0,
        inline_message_octets_max: 2048,
        ..Limits::default()
    };
    SpoolConfig { dir: PathBuf::from("/spool"), node_id: 1, limits: Arc::new(limits) }
}

async fn base() -> Base {
    let disk = SimFs::new();
    let (spool, _) = Spool::open(config(), Arc::new(disk.clone())).expect("an empty spool");
    let mut texts = BTreeMap::new();
    for number in 0..6 {
        let text = format!("Subject: {number}\r\n\r\n").into_bytes();
        let text = [text, vec![b'a' + number; 700 * usize::from(number)]].concat();
        let mut draft = spool.begin(0).expect("room");
        draft.push(&text).await.expect("a write");
        let queued = draft.commit(envelope()).await.expect("a commit");
        texts.insert(queued.id, text);
    }
    let disk = disk.kill();
    let is_segment = |path: &PathBuf| disk.content(path).is_some_and(|file| file.len() > 512);
    let segments = disk.names().into_iter().filter(is_segment).collect();
    Base { disk, segments, texts }
}

fn envelope() -> Envelope {
    let address = Address::parse("user@acme.test", false).expect("an address");
    Envelope {
        mail_from: None,
        recipients: vec![Recipient { address, notify: None, orcpt: None }],
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        authentication: None,
        about: None,
        letter: None,
        origin: Origin {
            ip: None,
            helo: "client.test".into(),
            received_at_us: 1_780_000_000_000_000,
            mx_name: None,
        },
    }
}

/// Segments: whatever is damaged, the spool opens, and a text that it gives out is the one that
/// was put in. Five octets of input are one damage: where, and what the octet becomes; the first
/// octet of all may cut the file.
pub(crate) fn segment(data: &[u8]) {
    let Some((&cut, damages)) = data.split_first() else { return };
    let base = &*BASE;
    let disk = base.disk.kill();
    for path in &base.segments {
        disk.damage(path, |file| damage(file, cut, damages));
    }
    block_on(async {
        let Ok((spool, recovered)) = Spool::open(config(), Arc::new(disk)) else { return };
        let mut given_out = 0;
        for entry in recovered.flatten() {
            let Ok(Some(message)) = spool.load(entry.id) else { continue };
            if let Some(text) = whole_text(&message).await {
                assert_eq!(Some(&text), base.texts.get(&entry.id), "a text nobody put in");
                given_out += 1;
            }
        }
        let is_whole = cut <= 128 && damages.len() < 5;
        assert!(!is_whole || given_out == base.texts.len(), "nothing is damaged, all is there");
        let _ = spool.close().await;
    });
}

fn damage(file: &mut Vec<u8>, cut: u8, damages: &[u8]) {
    // What is behind the records is zeros, which is no use to damage.
    let used = file.iter().rposition(|&octet| octet != 0).map_or(0, |last| last + 1);
    for damage in damages.chunks_exact(5).take(8) {
        let at = u32::from_le_bytes([damage[0], damage[1], damage[2], damage[3]]);
        if let Some(octet) = file.get_mut(at as usize % used.max(1)) {
            *octet = damage[4];
        }
    }
    if cut > 128 {
        file.truncate(used * usize::from(255 - cut) / 127);
    }
}

async fn whole_text(message: &Message) -> Option<Vec<u8>> {
    let (mut reader, mut text) = (message.text(), Vec::new());
    while let Some(chunk) = reader.next_chunk().await.ok()? {
        text.extend_from_slice(&chunk);
    }
    Some(text)
}
