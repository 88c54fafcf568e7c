//! Letters to customers about a migration leave only while the fleet wants them read. A host that
//! was away may have missed that one is cancelled, so its letters wait until it knows.

use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::State;

use super::Inner;
use super::core::Work;
use crate::schedule::Permit;
use crate::smtp::MigrationLetter;
use crate::smtp::about::domain_of;

/// What this node knows may be so old. Who is to hear of a cancellation does so a minute after it
/// (`rotation/migration/due.rs`): what it withdraws is not read after that.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// How soon a letter that waits is looked at again.
const PAUSE: Duration = Duration::from_secs(5);

/// What is to become of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is sent.
    Leaves,
    /// This node does not know what the fleet wants now.
    Waits,
    /// Nobody is to read it.
    Withdrawn,
}

impl Inner {
    /// The work, if it may be done; a letter that is withdrawn is ended instead, or waits.
    pub(super) async fn vetted(self: &Arc<Self>, permit: &Permit, mut work: Work) -> Option<Work> {
        if !domain_of(permit.domain()).1 {
            return Some(work); // letters have queues of our own mail
        }
        let Some(message) = self.load(&mut work).await else { return Some(work) };
        let letter = message.envelope.migration_letter();
        let fate = letter.map_or(Fate::Leaves, |letter| self.fate_of(letter));
        if fate == Fate::Leaves {
            work.message = Some(message);
            return Some(work);
        }
        let id = work.ticket.id;
        self.update(|core, now| {
            let left = work.ticket.recipients.clone();
            core.schedule.finish(work.ticket, Some((left, now + PAUSE)), now);
        });
        if fate == Fate::Withdrawn {
            match self.withdraw(id).await {
                Ok(()) => tracing::info!(%id, "a letter of a cancelled migration is withdrawn"),
                // It is looked at again, and by then it may have ended.
                Err(error) => tracing::debug!(%id, %error, "a letter is not withdrawn yet"),
            }
        }
        None
    }

    fn fate_of(&self, letter: &MigrationLetter) -> Fate {
        let cluster = &self.parts.cluster;
        // What is detached is a fleet by itself.
        let agreed_ago = cluster.gauges().map_or(Some(Duration::ZERO), |gauges| gauges.agreed_ago);
        fate(&cluster.view(), letter, agreed_ago)
    }
}

/// What is to become of a letter, where a quorum agreed to `state` so long ago.
fn fate(state: &State, letter: &MigrationLetter, agreed_ago: Option<Duration>) -> Fate {
    let migration = state.migrations().find(|migration| migration.id == letter.migration);
    // The last round of a cancelled one tells of that.
    let is_withdrawn =
        migration.is_some_and(|known| known.is_cancelled() && letter.round < known.rounds);
    match agreed_ago {
        _ if is_withdrawn => Fate::Withdrawn,
        Some(ago) if ago < KNOWN_WITHIN => Fate::Leaves,
        Some(_) | None => Fate::Waits,
    }
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::{Command, HostCommand, MigrationCommand, Request};

    use super::*;
    use crate::fleet::tests::new_host;

    #[test]
    fn a_letter_leaves_while_its_migration_is_not_cancelled_and_this_node_would_know() {
        let (name, host) = (|| "mx-a.relay.test".to_owned(), || "mx1".to_owned());
        let (title, text) = (|| "New names".to_owned(), || "See your mail.".to_owned());
        let zone = Some("relay.test".to_owned());
        let introduce = vec![(name(), host())];
        let (addresses, ends_ms) = (vec!["192.0.2.1".parse().unwrap()], 9_000_000);
        let commands = [
            Command::HostFound { host: new_host(1), seed: 1 },
            Command::HostService(HostCommand::Set { name: host(), addresses }),
            Command::SettingSet { name: "rotation.zone".to_owned(), value: zone },
            Command::Migration(MigrationCommand::Plan {
                retire: Vec::new(),
                introduce,
                ends_ms,
                text: text(),
            }),
            Command::Migration(MigrationCommand::Announce { title: title(), text: text() }),
            Command::Migration(MigrationCommand::Cancel),
        ];
        let mut state = State::default();
        let letter = |round| MigrationLetter { migration: 1, round, customer: "acme".to_owned() };
        let (now, late) = (Some(Duration::ZERO), Some(KNOWN_WITHIN));
        for (index, command) in (1..).zip(commands) {
            let is_cancel = command == Command::Migration(MigrationCommand::Cancel);
            if is_cancel {
                assert_eq!(fate(&state, &letter(1), now), Fate::Leaves);
                assert_eq!(fate(&state, &letter(1), late), Fate::Waits, "it may be cancelled");
                assert_eq!(fate(&state, &letter(1), None), Fate::Waits, "after a start");
            }
            let request = Request::new(index.into(), "test", 1000, command);
            state.apply(index, &request).unwrap();
        }
        assert_eq!(fate(&state, &letter(1), now), Fate::Withdrawn);
        assert_eq!(fate(&state, &letter(1), None), Fate::Withdrawn, "that is for good");
        assert_eq!(fate(&state, &letter(2), now), Fate::Leaves, "it tells of the cancellation");
    }
}
