//! A recipient has failed for good: who is told, and what is remembered of it (stage 9a).

use super::Inner;
use super::ending::cut;
use crate::bounce::policy::{Facts, Telling, tell};
use crate::smtp::{Enhanced, Envelope};
use crate::spool::{EntryId, Outcome};
use crate::system::clock::wall_us;
use crate::telemetry::journal::{self, JournalLine};
use crate::telemetry::metrics::METRICS;

impl Inner {
    /// The outcome of a recipient that failed: whether the sender may be told of it. It is
    /// journaled in any case.
    pub(super) fn failed(
        &self,
        id: EntryId,
        envelope: &Envelope,
        recipient: u32,
        (dsn, reply): (Enhanced, &str),
    ) -> Outcome {
        let Some(recipient) = envelope.recipients.get(recipient as usize) else {
            return Outcome::Failed;
        };
        let sender = &envelope.mail_from;
        let view = self.parts.cluster.view();
        let is_customer =
            sender.as_ref().is_some_and(|sender| view.domain(sender.domain()).is_some());
        // Nothing checks yet whether a message comes from its sender's domain, so none does.
        let is_authentic = false;
        let told = tell(Facts { sender, recipient, is_customer, is_authentic });
        let (outcome, word, because) = match told {
            Telling::Report => (Outcome::Failed, "failed", None),
            Telling::Nobody(because) => {
                let because = because.as_str();
                METRICS.bounces_suppressed_total.with_label_values(&[because]).inc();
                (Outcome::Suppressed, "suppressed", Some(because.to_owned()))
            }
        };
        self.parts.journal.write(JournalLine {
            at: journal::time(wall_us()),
            id: id.to_string(),
            from: sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: recipient.address.to_string(),
            outcome: word.to_owned(),
            because,
            dsn: dsn.to_string(),
            reply: cut(reply.to_owned()),
        });
        outcome
    }
}
