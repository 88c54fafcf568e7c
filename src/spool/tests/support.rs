//! What the spool's tests share.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::config::Limits;
use crate::smtp::envelope::Origin;
use crate::smtp::{Address, BodyType, Enhanced, Envelope, Recipient};
use crate::spool::sim_fs::SimFs;
use crate::spool::{
    EntryId, Mark, Message, Outcome, Queued, Recovered, Spool, SpoolConfig, SpoolError,
};

pub(super) const KIB: usize = 1024;

/// Small segments, so that little mail fills several.
pub(super) fn limits() -> Limits {
    Limits {
        segment_octets: 64 * KIB as u64,
        disk_reserve_octets: 0,
        inline_message_octets_max: 8 * KIB,
        compact_octets_per_second: u64::MAX,
        ..Limits::default()
    }
}

pub(super) fn config(limits: Limits) -> SpoolConfig {
    SpoolConfig { dir: PathBuf::from("/spool"), node_id: 3, limits: Arc::new(limits) }
}

/// Open without an upkeep thread.
pub(super) fn open(fs: &SimFs) -> (Spool, Recovered) {
    open_with(fs, limits())
}

pub(super) fn open_with(fs: &SimFs, limits: Limits) -> (Spool, Recovered) {
    Spool::open_quiet(config(limits), Arc::new(fs.clone())).unwrap()
}

pub(super) fn envelope(recipients: &[&str]) -> Envelope {
    Envelope {
        mail_from: Some(Address::parse("sender@elsewhere.test", false).unwrap()),
        recipients: recipients
            .iter()
            .map(|address| Recipient {
                address: Address::parse(address, false).unwrap(),
                notify: None,
                orcpt: None,
            })
            .collect(),
        body: BodyType::EightBitMime,
        smtputf8: false,
        ret: None,
        envid: None,
        authentication: None,
        about: None,
        letter: None,
        origin: Origin {
            ip: Some("192.0.2.1".parse().unwrap()),
            helo: "client.test".into(),
            received_at_us: 1_780_000_000_000_000,
            mx_name: None,
        },
    }
}

/// Text of `octets`, different for each `seed`.
pub(super) fn text(seed: u64, octets: usize) -> Vec<u8> {
    let mut random = crate::spool::sim_fs::Random(seed);
    let mut text: Vec<u8> =
        (0..octets.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    text.truncate(octets);
    text
}

pub(super) async fn put(
    spool: &Spool,
    recipients: &[&str],
    text: &[u8],
) -> Result<Queued, SpoolError> {
    let mut draft = spool.begin(0)?;
    for piece in text.chunks(5000) {
        draft.push(piece).await?;
    }
    draft.commit(envelope(recipients)).await
}

pub(super) async fn text_of(message: &Message) -> Vec<u8> {
    let mut reader = message.text();
    let mut text = Vec::new();
    while let Some(piece) = reader.next_chunk().await.unwrap() {
        assert!(piece.len() <= 64 * KIB);
        text.extend_from_slice(&piece);
    }
    text
}

pub(super) fn delivered(recipient: u32) -> Mark {
    Mark::Final {
        recipient,
        outcome: Outcome::Delivered,
        dsn: Enhanced(2, 0, 0),
        reply: "250 ok".into(),
        at_us: 5,
    }
}

pub(super) fn deferred(recipient: u32, attempts: u32, due_us: u64) -> Mark {
    Mark::Deferred {
        recipient,
        attempts,
        due_us,
        dsn: Enhanced(4, 2, 1),
        reply: format!("450 busy {attempts}"),
        at_us: 6,
        warned: false,
    }
}

/// Do all upkeep there is.
pub(super) fn upkeep(spool: &Spool) {
    while upkeep_step(spool).unwrap() {}
}

/// Do one step of upkeep, on a thread of its own as always.
pub(super) fn upkeep_step(spool: &Spool) -> io::Result<bool> {
    let shared = &spool.handle.shared;
    thread::scope(|scope| scope.spawn(|| crate::spool::upkeep::step(shared)).join().unwrap())
}

/// The entries a restart would schedule.
pub(super) fn recovered_ids(recovered: Recovered) -> Vec<EntryId> {
    let mut ids: Vec<EntryId> = recovered.map(|entry| entry.unwrap().id).collect();
    ids.sort();
    ids
}
