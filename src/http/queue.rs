//! Admin calls about the mail that waits on this node.

use super::call::{Call, QueueChanged, Refused, RefusedKind, Which};
use super::domain_name;
use crate::smtp::about::{WEBHOOK, domain_of, own_destination};
use crate::spool::EntryId;
use crate::worker::{Deliveries, OperateError};

/// Messages in one answer.
const LIST_MAX: usize = 10_000;

/// Of so many destinations a summary says what was answered last: each costs a look into the spool.
const REPLIES_MAX: usize = 100;

/// What an operator can do to one message.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Hold,
    Release,
    Delete,
    Bounce,
}

/// Answer a call of `by` about the queue; `None` when the call is about something else.
pub async fn answer(
    deliveries: &Deliveries,
    call: &Call,
    by: &str,
) -> Option<Result<serde_json::Value, Refused>> {
    Some(match call {
        Call::QueueSummary => summary(deliveries).await,
        Call::QueueList { domain, after, limit } => {
            list(deliveries, domain.as_deref(), after.as_deref(), *limit).await
        }
        Call::QueueShow { id } => show(deliveries, id).await,
        Call::QueueRetry(which) => retry(deliveries, which, by).await.map(row),
        Call::QueueHold(which) => each(deliveries, which, Verb::Hold, by).await.map(row),
        Call::QueueRelease(which) => each(deliveries, which, Verb::Release, by).await.map(row),
        Call::QueueDelete(which) => each(deliveries, which, Verb::Delete, by).await.map(row),
        Call::QueueBounce(which) => each(deliveries, which, Verb::Bounce, by).await.map(row),
        _ => return None,
    })
}

async fn summary(deliveries: &Deliveries) -> Result<serde_json::Value, Refused> {
    Ok(serde_json::json!(deliveries.summary_with_replies(REPLIES_MAX).await?))
}

async fn list(
    deliveries: &Deliveries,
    domain: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<serde_json::Value, Refused> {
    let domain = domain.map(domain_name).transpose()?;
    let after = after.map(id).transpose()?;
    let entries = deliveries.list(domain.as_deref(), after, limit.min(LIST_MAX)).await?;
    Ok(serde_json::json!(entries))
}

async fn show(deliveries: &Deliveries, text: &str) -> Result<serde_json::Value, Refused> {
    Ok(serde_json::json!(deliveries.show(id(text)?).await?))
}

async fn retry(deliveries: &Deliveries, which: &Which, by: &str) -> Result<QueueChanged, Refused> {
    let counted = |(due, held): (usize, usize)| QueueChanged {
        changed: due as u64,
        as_before: held as u64,
        busy: 0,
    };
    Ok(match which {
        Which::All => counted(deliveries.retry_all(by)),
        Which::Domain(domain) => counted(deliveries.retry_domain(&name(domain)?, by)),
        Which::Id(text) => {
            let is_due = deliveries.retry(id(text)?, by).await?;
            counted((usize::from(is_due), usize::from(!is_due)))
        }
    })
}

/// Do `verb` to each message. One that is under way is only counted, unless it is the only one
/// asked for: then the operator is told.
async fn each(
    deliveries: &Deliveries,
    which: &Which,
    verb: Verb,
    by: &str,
) -> Result<QueueChanged, Refused> {
    let mut counts = QueueChanged::default();
    let ids = match which {
        Which::Id(text) => {
            counts.count(once(deliveries, id(text)?, verb, by).await?);
            return Ok(counts);
        }
        Which::All => deliveries.ids(None),
        Which::Domain(domain) => deliveries.ids(Some(&name(domain)?)),
    };
    for id in ids {
        match once(deliveries, id, verb, by).await {
            Ok(has_changed) => counts.count(has_changed),
            Err(OperateError::Running(_) | OperateError::OnItsWay(_)) => counts.busy += 1,
            // It has ended meanwhile.
            Err(OperateError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(counts)
}

/// Whether it changed anything.
async fn once(
    deliveries: &Deliveries,
    id: EntryId,
    verb: Verb,
    by: &str,
) -> Result<bool, OperateError> {
    match verb {
        Verb::Hold => deliveries.hold(id, by).await,
        Verb::Release => deliveries.release(id, by).await,
        Verb::Delete => deliveries.delete(id, by).await.map(|()| true),
        Verb::Bounce => deliveries.bounce(id, by).await.map(|()| true),
    }
}

fn row(counts: QueueChanged) -> serde_json::Value {
    serde_json::json!(counts)
}

fn id(text: &str) -> Result<EntryId, Refused> {
    text.parse().map_err(|_| Refused::invalid(format!("{} is not a queue id", text.escape_debug())))
}

/// A domain, or the name of a queue of our own mail, which the summary shows.
fn name(text: &str) -> Result<String, Refused> {
    if text == WEBHOOK {
        return Ok(text.to_owned());
    }
    let (domain, is_ours) = domain_of(text);
    let domain = domain_name(domain)?;
    Ok(if is_ours { own_destination(&domain) } else { domain })
}

impl From<OperateError> for Refused {
    fn from(error: OperateError) -> Self {
        let kind = match error {
            OperateError::NotFound(_) => RefusedKind::NotFound,
            OperateError::Running(_) | OperateError::OnItsWay(_) => RefusedKind::Conflict,
            OperateError::Unreadable(_) | OperateError::NotReported(..) => RefusedKind::Unavailable,
        };
        Self { error: error.to_string(), kind }
    }
}
