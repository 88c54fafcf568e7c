//! Nodes that report rejections, one batch at a time, each again until the fleet has taken it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;

use super::Bug;
use super::runtime::{below, next};
use crate::propose::Forwarder;
use crate::raft::NodeId;
use crate::state::{Command, RecipientEvent, Request, State};

const AT_MS: u64 = 1_700_000_000_000;
const EVENTS_MAX: u64 = 4;

/// What a node has to report. It outlives crashes, as the file does that it stands for.
#[derive(Default)]
struct Outbox {
    /// Of the newest batch.
    sequence: u64,
    /// The newest batch, until it was taken.
    batch: Option<Request>,
    is_on_its_way: bool,
    /// Addresses of all batches.
    addresses: Vec<String>,
}

/// See the module.
pub(super) struct Reports {
    outboxes: BTreeMap<NodeId, Arc<Mutex<Outbox>>>,
    bug: Option<Bug>,
}

impl Outbox {
    /// The next batch, about addresses that were never refused before.
    fn begin(&mut self, node: NodeId) -> Request {
        self.sequence += 1;
        let sequence = self.sequence;
        let address = |n| format!("u{sequence}.{n}@mx{node}.test");
        let addresses: Vec<String> = (0..=below(EVENTS_MAX)).map(address).collect();
        let rejected = |address: &String| RecipientEvent::Rejected {
            address: address.clone(),
            at_ms: AT_MS,
            reply: "550".to_owned(),
        };
        let events = addresses.iter().map(rejected).collect();
        self.addresses.extend(addresses);
        let command = Command::BlacklistReport { node, incarnation: 1, sequence, events };
        let request = Request::new(id(), "node", AT_MS, command);
        self.batch = Some(request.clone());
        request
    }

    /// The batch under another number, as if it were another one.
    fn rename(&mut self) {
        let Some(Request {
            id: request, command: Command::BlacklistReport { sequence, .. }, ..
        }) = &mut self.batch
        else {
            return;
        };
        self.sequence += 1;
        (*request, *sequence) = (id(), self.sequence);
    }
}

fn id() -> u128 {
    (u128::from(next()) << 64) | u128::from(next())
}

impl Reports {
    pub(super) fn of(nodes: u64, bug: Option<Bug>) -> Self {
        Self { outboxes: (1..=nodes).map(|id| (id, Arc::default())).collect(), bug }
    }

    /// Propose what the node has to report, if that is not being done. While `more`, it always has.
    pub(super) fn send(&self, node: NodeId, forwarder: Forwarder, more: bool) {
        let outbox = Arc::clone(&self.outboxes[&node]);
        let request = {
            let mut outbox = outbox.lock().unwrap();
            let request = match outbox.batch.clone() {
                _ if outbox.is_on_its_way => return,
                Some(batch) => batch,
                None if more => outbox.begin(node),
                None => return,
            };
            outbox.is_on_its_way = true;
            request
        };
        let bug = self.bug;
        tokio::spawn(async move {
            // Of a node that goes off nothing is heard.
            let told = timeout(Duration::from_secs(8), forwarder.propose(request)).await;
            let mut outbox = outbox.lock().unwrap();
            outbox.is_on_its_way = false;
            if matches!(told, Ok(Ok(Ok(_)))) {
                outbox.batch = None;
            } else if bug == Some(Bug::CountedTwice) {
                outbox.rename();
            }
        });
    }

    /// Whether everything was taken.
    pub(super) fn are_taken(&self) -> bool {
        self.outboxes.values().all(|outbox| outbox.lock().unwrap().batch.is_none())
    }

    /// Each rejection is counted, and once.
    pub(super) fn check(&self, state: &State) -> Result<usize, String> {
        let mut reported = 0;
        for outbox in self.outboxes.values() {
            for address in &outbox.lock().unwrap().addresses {
                let entry = state.blacklist_entry(address, AT_MS);
                let counted = entry.map_or(0, |entry| entry.rejections_ms.len());
                if counted != 1 {
                    return Err(format!("the rejection of {address} was counted {counted} times"));
                }
                reported += 1;
            }
        }
        Ok(reported)
    }
}
