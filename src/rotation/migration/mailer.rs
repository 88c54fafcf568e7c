//! Writing to customers: one letter a customer and round, whoever leads and whoever crashes.
//!
//! The leader claims a letter in the state, with the queue id it will have; then it queues it. What
//! became of it is kept by [`Letters`] until the state has it. Every node looks at its claims again
//! and again: one without a message in the spool and without news was never queued, and is now,
//! whether a crash was in the way, a full disk, or a claim that was decided late.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Customer, Migration, MigrationCommand, Request, State, Told, random_id,
};
use tokio::time::sleep;

use super::due::{self, is_ready};
use super::letter::{self, Draft};
use crate::contacts::contacts;
use crate::letters::{Known, Letters, News};
use crate::post::{Post, PostError};
use crate::smtp::{Letter, MigrationLetter};
use crate::spool::{EntryId, Hold};
use crate::system::clock::wall_ms;
use crate::worker::WITHDRAWN;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Letters claimed with one command.
const BATCH: usize = 100;
/// Who reports, for the audit trail.
const ACTOR: &str = "migration";

/// Writes letters while this node leads, and tells the fleet what became of those it has.
#[derive(Clone)]
pub(in crate::rotation) struct Mailer {
    pub(in crate::rotation) cluster: Cluster,
    pub(in crate::rotation) post: Post,
    pub(in crate::rotation) letters: Letters,
    pub(in crate::rotation) node: u64,
}

/// A letter that is claimed, and queued next.
struct Claimed {
    letter: MigrationLetter,
    id: EntryId,
}

/// Why a letter was not queued. Its claim stays, and the next look queues it.
#[derive(Debug, thiserror::Error)]
enum LetterError {
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("what is known of letters cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl Mailer {
    pub(in crate::rotation) async fn run(self) {
        loop {
            if let Err(error) = self.queue_claims().await {
                tracing::warn!("letters that are this node's to send wait: {error}");
            }
            self.tell_taken_over().await;
            self.tell_news().await;
            if self.cluster.leads() {
                self.write().await;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Queue what this node claimed and did not come to queue: in an earlier life, or because it
    /// had given up waiting when its claim was decided, or because there was no room.
    async fn queue_claims(&self) -> Result<(), LetterError> {
        let state = self.cluster.view();
        let Some(migration) = state.migrations().next() else { return Ok(()) };
        if !self.letters.forget_before(migration.id)? {
            return Ok(());
        }
        for (customer, step) in state.migration_steps() {
            let Told::Sending { node, message } = step.told else { continue };
            let Some(id) = entry_id(message).filter(|_| node == self.node) else { continue };
            let letter = MigrationLetter {
                migration: migration.id,
                round: step.round,
                customer: customer.to_owned(),
            };
            if migration.is_cancelled() && step.round < migration.rounds {
                self.withdraw(&letter, id).await?;
                continue;
            }
            if self.post.spool.hold_of(id).is_some() || self.letters.known(&letter)?.is_some() {
                continue;
            }
            tracing::info!(customer, "a letter that was cut short is queued");
            self.queue(&state, migration, Claimed { letter, id }).await?;
        }
        Ok(())
    }

    /// Nobody is to be told any more what this letter says: if no server has it, none gets it.
    async fn withdraw(&self, letter: &MigrationLetter, id: EntryId) -> Result<(), LetterError> {
        match self.post.spool.hold_of(id) {
            Some(hold) if hold.is_ours() => match self.post.deliveries.withdraw(id).await {
                Ok(()) => tracing::info!(%id, customer = letter.customer, "a letter is withdrawn"),
                // It is tried again, and by then it may have ended.
                Err(error) => tracing::debug!(%id, %error, "a letter is not withdrawn yet"),
            },
            None if self.letters.known(letter)?.is_none() => {
                let news = News::Failed(WITHDRAWN.to_owned());
                self.letters.keep(letter, news, wall_ms()).await?;
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Write to whoever is to be written to.
    async fn write(&self) {
        let state = self.cluster.view();
        let Some(migration) = state.migrations().next().filter(|m| is_ready(&state, m, wall_ms()))
        else {
            return;
        };
        let due: Vec<&Customer> = due::due(&state, migration, wall_ms()).take(BATCH).collect();
        if !due.is_empty() {
            self.write_to(&state, migration, &due).await;
        }
    }

    async fn write_to(&self, state: &State, migration: &Migration, due: &[&Customer]) {
        let (mut rows, mut claims) = (Vec::new(), Vec::new());
        for customer in due {
            let told = if contacts(customer).is_empty() {
                Told::NoContact
            } else {
                let Ok(draft) = self.post.spool.begin(0) else {
                    return tracing::warn!("letters wait: the spool takes no mail now");
                };
                let (id, round) = (draft.id(), migration.rounds);
                let letter = MigrationLetter {
                    migration: migration.id,
                    round,
                    customer: customer.id.clone(),
                };
                claims.push(Claimed { letter, id });
                Told::Sending { node: self.node, message: message_number(id) }
            };
            rows.push((customer.id.clone(), migration.rounds, told));
        }
        if !self.propose(rows).await {
            return;
        }
        for claimed in claims {
            // Another leader may have been quicker; the state says whose the letter is.
            let now = self.cluster.view();
            let is_ours = now.migration_step(&claimed.letter.customer).is_some_and(|step| {
                let message = message_number(claimed.id);
                step.told == Told::Sending { node: self.node, message }
            });
            let customer = claimed.letter.customer.clone();
            if is_ours && let Err(error) = self.queue(state, migration, claimed).await {
                tracing::error!(%error, customer, "a letter is not queued yet");
            }
        }
    }

    /// Queue a letter under the id it was claimed with.
    async fn queue(
        &self,
        state: &State,
        migration: &Migration,
        claimed: Claimed,
    ) -> Result<(), LetterError> {
        let Claimed { letter, id } = claimed;
        let customer = state.customer(&letter.customer);
        let step = state.migration_step(&letter.customer);
        let (Some(customer), Some(step)) = (customer, step) else { return Ok(()) };
        // An operator may have given it others since.
        let names = state.names_of(&customer.id);
        let domains = state.domains_of(&customer.id);
        let domains: Vec<String> = domains.map(|domain| domain.name.clone()).collect();
        let draft =
            Draft { migration, customer, step, names, domains: &domains, round: letter.round };
        let text = letter::compose(&draft);
        let message = self.post.spool.begin_copy(id, text.body.len() as u64);
        let message = message.map_err(PostError::from)?;
        let letter = Letter::Migration(letter);
        Ok(self.post.queue(message, state, &contacts(customer), &text, letter).await?)
    }

    /// Tell the fleet which letters this node has from hosts that were drained: once those hosts
    /// are removed, they would be written again.
    async fn tell_taken_over(&self) {
        let state = self.cluster.view();
        let is_here = |id| self.post.spool.hold_of(id).is_some_and(Hold::is_ours);
        let taken_over = state.migration_steps().filter_map(|(customer, step)| {
            let Told::Sending { node, message } = step.told else { return None };
            let is_news = node != self.node && entry_id(message).is_some_and(is_here);
            let told = Told::Sending { node: self.node, message };
            is_news.then(|| (customer.to_owned(), step.round, told))
        });
        let rows: Vec<_> = taken_over.take(BATCH).collect();
        if !rows.is_empty() {
            self.propose(rows).await;
        }
    }

    /// Tell the fleet what became of letters that this node had.
    async fn tell_news(&self) {
        let all = match self.letters.all() {
            Ok(all) => all,
            Err(error) => return tracing::error!(%error, "news of letters cannot be read"),
        };
        let state = self.cluster.view();
        let newest = state.migrations().next().map_or(0, |migration| migration.id);
        let mut rows = BTreeMap::new();
        for (letter, known) in all {
            let step = state.migration_step(&letter.customer);
            let round = step.map_or(0, |step| step.round);
            // After a start this node may have to catch up: what it does not know yet waits.
            if (letter.migration, letter.round) > (newest, round) {
                continue;
            }
            let open = step.filter(|step| letter.migration == newest && step.round == letter.round);
            match open.and_then(|step| news(&known, &step.told)) {
                Some(told) => {
                    rows.insert(letter.customer.clone(), (letter.customer, letter.round, told));
                }
                None if open.is_some_and(|step| matches!(step.told, Told::Sending { .. })) => {}
                None => {
                    if let Err(error) = self.letters.told(&letter) {
                        tracing::warn!(%error, "old news of a letter stay");
                    }
                }
            }
            if rows.len() >= BATCH {
                break;
            }
        }
        if !rows.is_empty() {
            self.propose(rows.into_values().collect()).await;
        }
    }

    async fn propose(&self, rows: Vec<(String, u32, Told)>) -> bool {
        let command = Command::Migration(MigrationCommand::Told { rows });
        let request = Request::new(random_id(), ACTOR, wall_ms(), command);
        match self.cluster.propose(request).await {
            Ok(Ok(_)) => true,
            Ok(Err(refusal)) => {
                tracing::warn!(%refusal, "what is known of letters was not taken");
                false
            }
            Err(error) => {
                tracing::debug!(%error, "what is known of letters could not be told");
                false
            }
        }
    }
}

/// What the fleet does not know yet.
fn news(known: &Known, told: &Told) -> Option<Told> {
    match (known.accepted_ms, &known.failed, told) {
        (_, _, Told::Accepted { .. }) => None,
        (Some(at_ms), _, _) => Some(Told::Accepted { at_ms }),
        (None, Some((at_ms, why)), Told::Sending { .. }) => {
            Some(Told::Bounced { at_ms: *at_ms, why: why.clone() })
        }
        _ => None,
    }
}

/// A queue id as a number that fits the state.
pub(super) fn message_number(id: EntryId) -> u128 {
    (u128::from(id.micros()) << 16) | u128::from(id.node())
}

fn entry_id(message: u128) -> Option<EntryId> {
    let node = u16::try_from(message & 0xffff).ok()?;
    EntryId::new(u64::try_from(message >> 16).ok()?, node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_id_survives_the_state() {
        let id = EntryId::new(1_780_000_000_000_000, 513).unwrap();
        assert_eq!(entry_id(message_number(id)), Some(id));
    }

    #[test]
    fn one_server_that_took_it_outweighs_those_that_did_not() {
        let known = Known { failed: Some((5, "550".to_owned())), ..Known::default() };
        let sending = Told::Sending { node: 1, message: 1 };
        let bounced = Told::Bounced { at_ms: 5, why: "550".to_owned() };
        assert_eq!(news(&known, &sending), Some(bounced.clone()));
        assert_eq!(news(&known, &bounced), None);
        let known = Known { accepted_ms: Some(6), ..known };
        assert_eq!(news(&known, &bounced), Some(Told::Accepted { at_ms: 6 }));
        assert_eq!(news(&Known { moved: true, ..Known::default() }, &sending), None);
    }
}
