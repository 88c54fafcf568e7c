//! Mail that ends at this node: reports to return paths of ours, and mail to those who run the
//! service.

use std::sync::Arc;
use std::time::Instant;

use super::Inner;
use super::attempt::{Attempted, Loaded};
use super::connection::delays;
use super::core::Work;
use super::ending::Trial;
use crate::schedule::Permit;
use crate::smtp::{Envelope, Role};
use crate::telemetry::metrics::METRICS;

/// Where such mail goes, for the log.
const RELAY: &str = "local";

impl Inner {
    /// Whether mail for this destination ends here: a name of this host, or the service's domain.
    pub(super) fn is_local(&self, destination: &str) -> bool {
        if self.is_own_name(destination) {
            return true;
        }
        let view = self.parts.cluster.view();
        view.service_domain() == Some(destination) && view.domain(destination).is_none()
    }

    /// Take a message, and write what there is to write because of it.
    pub(super) async fn take_local(self: &Arc<Self>, permit: &Permit, mut work: Work) {
        let Some(message) = self.load(&mut work).await else {
            self.skip(permit, work, None);
            return;
        };
        let id = work.ticket.id;
        let (mut judged, mut ours) = (Vec::new(), Vec::new());
        let recipients = work.ticket.recipients.as_slice();
        let (roles, returns): (Vec<u32>, Vec<u32>) =
            recipients.iter().partition(|recipient| role(&message, **recipient).is_some());
        for recipient in returns {
            let verdict = self.take_return(id, &message, recipient, &mut ours).await;
            judged.push((recipient, verdict));
        }
        if !roles.is_empty() {
            let verdict = self.hand_on(id, &message, &roles, &mut ours).await;
            judged.extend(roles.iter().map(|recipient| (*recipient, verdict.clone())));
        }
        let attempted = Attempted { judged, untried: Vec::new(), answered: true };
        let delays = delays(&work, Instant::now());
        let (relay, offers_dsn) = (Some(RELAY), roles.is_empty());
        let trial = Trial { work, message: &message, relay, offers_dsn, delays };
        self.settle(permit, trial, attempted, None).await;
        // Only now, so that what has gone leaves nothing that could be written again.
        ours.into_iter().for_each(|queued| self.accept(queued));
    }

    /// Count what was written to those who run the service.
    pub(super) fn count_roles(&self, envelope: &Envelope) {
        if envelope.is_ours() {
            return;
        }
        for recipient in &envelope.recipients {
            if let Some(role) = Role::of(&recipient.address)
                && self.is_local(recipient.address.domain())
            {
                METRICS.role_mail_total.with_label_values(&[role.as_str()]).inc();
            }
        }
    }
}

fn role(message: &Loaded, recipient: u32) -> Option<Role> {
    Role::of(&message.envelope.recipients.get(recipient as usize)?.address)
}
