//! A long random life, compared with a model that keeps everything in memory.
//!
//! What must hold after every restart, crash, lost write and failed call: each acknowledged entry
//! is there with its exact text and envelope until it may have ended; what ended durably never
//! comes back; what was refused never appears; the state of each recipient is one it had, at or
//! after the last sync.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use super::support::*;
use crate::smtp::Enhanced;
use crate::spool::sim_fs::{EIO, ENOSPC, Fault, Random, SimFs};
use crate::spool::{EntryId, Hold, Mark, Outcome, RecipientState, Spool};

/// One recipient: the states it has had since it was last surely durable, oldest first.
type History = Vec<RecipientState>;

struct Known {
    recipients: Vec<&'static str>,
    text: Vec<u8>,
    histories: Vec<History>,
    /// Holds since the last surely durable one, oldest first.
    held: Vec<bool>,
}

impl Known {
    fn may_have_ended(&self) -> bool {
        self.histories.iter().all(|h| h.last().is_some_and(|state| state.outcome.is_some()))
    }

    fn has_ended(&self) -> bool {
        self.histories.iter().all(|h| h.first().is_some_and(|state| state.outcome.is_some()))
    }

    /// All that happened is durable.
    fn settle(&mut self) {
        let newest = |history: &mut History| drop(history.drain(..history.len() - 1));
        self.histories.iter_mut().for_each(newest);
        self.held.drain(..self.held.len() - 1);
    }
}

struct Life {
    random: Random,
    fs: SimFs,
    spool: Spool,
    known: BTreeMap<EntryId, Known>,
    refused: BTreeSet<EntryId>,
    /// A fault is waiting for its call.
    armed_until: u64,
    seed: u64,
}

const ADDRESSES: [&str; 5] =
    ["a@one.test", "b@one.test", "c@two.test", "d@three.test", "e@one.test"];

impl Life {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new();
        let (spool, _) = open(&fs);
        let (known, refused) = (BTreeMap::new(), BTreeSet::new());
        Self { random: Random(seed), fs, spool, known, refused, armed_until: 0, seed }
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..=6 => self.put().await,
            7..=11 => self.mark(),
            12 | 13 => self.hold(),
            14 => self.flush().await,
            15 | 16 => self.upkeep(),
            17 => self.give_up().await,
            18 => self.arm(),
            _ if self.random.below(2) == 0 => self.crash_in_upkeep().await,
            _ => self.restart().await,
        }
    }

    /// Several messages at once, so that they share a sync.
    async fn put(&mut self) {
        let mut drafts = Vec::new();
        for _ in 0..=self.random.below(6) {
            let octets = match self.random.below(6) {
                0 => 9000 + self.random.below(40_000),
                _ => self.random.below(3000),
            };
            let text = text(self.random.next_u64(), octets);
            let recipients = ADDRESSES[..=self.random.below(ADDRESSES.len())].to_vec();
            // A full or failing disk refuses before anything happened.
            if let Ok(draft) = self.spool.begin(octets as u64) {
                drafts.push((draft, recipients, text));
            }
        }
        let tasks: Vec<_> = drafts
            .into_iter()
            .map(|(mut draft, recipients, text)| {
                tokio::spawn(async move {
                    let id = draft.id();
                    let mut pushed = Ok(());
                    for piece in text.chunks(3000) {
                        pushed = pushed.and(draft.push(piece).await);
                    }
                    let committed = match pushed {
                        Ok(()) => draft.commit(envelope(&recipients)).await.map(|_| ()),
                        Err(error) => Err(error),
                    };
                    (id, recipients, text, committed.is_ok())
                })
            })
            .collect();
        let mut any = false;
        for task in tasks {
            let (id, recipients, text, committed) = task.await.unwrap();
            if committed {
                any = true;
                let histories = vec![vec![RecipientState::default()]; recipients.len()];
                self.known.insert(id, Known { recipients, text, histories, held: vec![false] });
            } else {
                self.refused.insert(id);
            }
        }
        // Marks ride the sync of a commit: those recorded before are durable with it.
        if any {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.known.values_mut().for_each(Known::settle);
        self.known.retain(|id, known| {
            if known.has_ended() {
                self.refused.insert(*id);
            }
            !known.has_ended()
        });
    }

    fn pick(&mut self) -> Option<EntryId> {
        let at = self.random.below(self.known.len());
        self.known.keys().nth(at).copied()
    }

    fn mark(&mut self) {
        let Some(id) = self.pick() else { return };
        let count = self.known[&id].recipients.len();
        let only = self.random.below(count * 2);
        let mut marks = Vec::new();
        for index in (0..count).filter(|index| only >= count || only == *index) {
            let (recipient, number) = (u32::try_from(index).unwrap(), self.random.next_u64());
            let reply = format!("reply {number}");
            let mark = if number % 3 == 0 {
                let due_us = (number % 1000) * 1_000_000;
                let attempts = u32::try_from(number % 50).unwrap();
                Mark::Deferred {
                    recipient,
                    attempts,
                    due_us,
                    dsn: Enhanced(4, 0, 1),
                    reply,
                    at_us: 9,
                    warned: number % 2 == 0,
                }
            } else {
                let outcome = [Outcome::Delivered, Outcome::Failed][usize::from(number % 2 == 0)];
                Mark::Final { recipient, outcome, dsn: Enhanced(2, 0, 1), reply, at_us: 9 }
            };
            let history = &mut self.known.get_mut(&id).unwrap().histories[index];
            let mut state = history.last().unwrap().clone();
            state.apply(&mark);
            history.push(state);
            marks.push(mark);
        }
        self.spool.record(id, marks);
    }

    fn hold(&mut self) {
        let Some(id) = self.pick().filter(|_| self.random.below(4) == 0) else { return };
        let known = self.known.get_mut(&id).unwrap();
        if known.may_have_ended() {
            return;
        }
        let held = self.random.below(2) == 0;
        known.held.push(held);
        self.spool.set_hold(id, if held { Hold::Operator } else { Hold::No })
    }

    async fn flush(&mut self) {
        if self.spool.flush().await.is_ok() {
            self.settle();
        }
    }

    /// Upkeep, while marks come in.
    fn upkeep(&mut self) {
        let spool = self.spool.clone();
        for _ in 0..=self.random.below(4) {
            thread::scope(|scope| {
                // An armed fault may hit here.
                scope.spawn(|| drop(upkeep_step(&spool)));
                for _ in 0..self.random.below(12) {
                    self.mark();
                    self.hold();
                }
            });
        }
    }

    /// A draft that is dropped, perhaps after chunks of it were written.
    async fn give_up(&mut self) {
        let Ok(mut draft) = self.spool.begin(0) else { return };
        self.refused.insert(draft.id());
        let octets = self.random.below(60_000);
        let _ = draft.push(&text(1, octets)).await;
    }

    /// Let one of the next calls fail; one at a time.
    fn arm(&mut self) {
        if self.fs.calls() < self.armed_until {
            return;
        }
        let nth = 1 + self.random.below(20) as u64;
        let fault =
            [Fault::Errno(EIO), Fault::Errno(ENOSPC), Fault::Short(EIO), Fault::Short(ENOSPC)];
        self.armed_until = self.fs.calls() + nth + 1;
        self.fs.fail_nth(nth, fault[self.random.below(4)]);
    }

    /// The machine stops somewhere in the middle of upkeep.
    async fn crash_in_upkeep(&mut self) {
        self.fs.fail_nth(1 + self.random.below(30) as u64, Fault::Stop);
        for _ in 0..3 {
            let _ = upkeep_step(&self.spool);
        }
        let fs = self.fs.crash(self.random.next_u64());
        self.go_on_with(fs).await;
    }

    async fn restart(&mut self) {
        let fs = match self.random.below(3) {
            0 => {
                let closed = self.spool.close().await;
                if closed.is_ok() {
                    self.settle();
                }
                self.fs.kill()
            }
            1 => self.fs.kill(),
            _ => self.fs.crash(self.random.next_u64()),
        };
        self.go_on_with(fs).await;
    }

    /// Open what is left, and compare.
    async fn go_on_with(&mut self, fs: SimFs) {
        (self.fs, self.armed_until) = (fs, 0);
        let (spool, recovered) = open(&self.fs);
        self.spool = spool;
        let report = recovered.report();
        let ids: BTreeSet<EntryId> = recovered_ids(recovered).into_iter().collect();
        let context = format!("seed {} {report:?}", self.seed);
        assert_eq!(ids, self.spool.ids().into_iter().collect(), "{context}");
        for id in &ids {
            assert!(!self.refused.contains(id), "{context}: {id} came back");
        }
        let known: Vec<EntryId> = self.known.keys().copied().collect();
        for id in known {
            if ids.contains(&id) {
                self.compare(id, &context).await;
            } else {
                assert!(self.known[&id].may_have_ended(), "{context}: {id} is lost");
                self.known.remove(&id);
                self.refused.insert(id);
            }
        }
        let strange: Vec<_> = ids.iter().filter(|id| !self.known.contains_key(id)).collect();
        assert!(strange.is_empty(), "{context}: {strange:?} appeared");
    }

    /// When all is delivered, nothing is left of it: the accounts of the segments are right.
    async fn end(&mut self) {
        for (id, known) in &self.known {
            for recipient in 0..u32::try_from(known.recipients.len()).unwrap() {
                self.spool.record(*id, vec![delivered(recipient)]);
            }
        }
        self.spool.flush().await.unwrap();
        upkeep(&self.spool);
        let stats = self.spool.stats();
        assert_eq!((stats.messages, stats.recipients, stats.held, stats.octets), (0, 0, 0, 0));
        assert_eq!(stats.segments, 1, "seed {}", self.seed);
        self.spool.close().await.unwrap();
        let (_, recovered) = open(&self.fs);
        assert_eq!(recovered_ids(recovered), [], "seed {}", self.seed);
    }

    async fn compare(&mut self, id: EntryId, context: &str) {
        let message = self.spool.load(id).unwrap().unwrap();
        let known = self.known.get_mut(&id).unwrap();
        assert_eq!(*message.envelope, envelope(&known.recipients), "{context}: {id}");
        assert_eq!(text_of(&message).await, known.text, "{context}: {id}");
        for (state, history) in message.states.iter().zip(&mut known.histories) {
            assert!(history.contains(state), "{context}: {id} {state:?} of {history:?}");
            *history = vec![state.clone()];
        }
        assert!(known.held.contains(&message.hold.is_operators()), "{context}: {id}");
        known.held = vec![message.hold.is_operators()];
    }
}

#[test]
fn a_random_life_loses_nothing_and_brings_nothing_back() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seeds = std::env::var("SPOOL_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let first: u64 =
        std::env::var("SPOOL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds.unwrap_or(15_u64) {
        let mut life = Life::new(seed);
        runtime.block_on(async {
            for _ in 0..150 {
                life.step().await;
            }
            life.restart().await;
            life.end().await;
        });
    }
}
