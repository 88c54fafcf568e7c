//! What a delivery status notification (RFC 3464) says about each recipient.
//!
//! Servers that accept first and bounce later tell us of unknown users this way. Whether the
//! notification is genuine, and about a message of ours, is for the caller to know before it
//! counts anything: anyone can write one.
//!
//! A notification with a machine-readable part is judged by that: only `failed` with 5.x.x can
//! count, and the far server's reply in it is judged like one we heard ourselves. Without that
//! part, known forms of plain text are read. Whatever is contradictory or unknown does not count.

mod fields;
mod notice;
mod plain;
mod reply;

use self::fields::Block;
use self::notice::Notice;
use super::classify::{Class, Judgement, classify_text};
use crate::smtp::{Enhanced, Stage};

/// Recipients of one notification that are looked at; a message of ours has no more.
const RECIPIENTS_MAX: usize = 1000;

/// One recipient of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsnRecipient {
    /// The address, as the notification has it.
    pub recipient: String,
    /// What happened to it.
    pub class: Class,
    /// The status code, if there is one.
    pub status: Option<Enhanced>,
    /// Why it was judged so.
    pub why: String,
    /// What the far server said, if the notification has it.
    pub said: Option<String>,
    /// It will not get the message. Otherwise it is late, or all is well.
    pub is_failure: bool,
}

/// The far server's words about one recipient, found in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    recipient: String,
    stage: Stage,
    reply: String,
}

/// Judge a notification, given as the whole message. Any bytes will do; what is no notification
/// has no recipients.
pub fn classify_dsn(bytes: &[u8]) -> Vec<DsnRecipient> {
    let Some(notice) = Notice::read(bytes) else { return Vec::new() };
    let mut told = plain::findings(&notice);
    told.truncate(RECIPIENTS_MAX);
    let judged: Vec<DsnRecipient> = if notice.blocks.is_empty() {
        told.iter().map(judge_finding).collect()
    } else {
        let blocks = notice.blocks.iter().take(RECIPIENTS_MAX);
        blocks.filter_map(|block| judge_block(block, &told)).collect()
    };
    let mut found: Vec<DsnRecipient> = Vec::with_capacity(judged.len());
    for recipient in judged {
        if !found.iter().any(|other| other.recipient == recipient.recipient) {
            found.push(recipient);
        }
    }
    found
}

fn judge_finding(finding: &Finding) -> DsnRecipient {
    let Judgement { class, why } = classify_text(finding.stage, &finding.reply);
    let status = reply::status(&finding.reply);
    let said = Some(finding.reply.clone());
    let is_failure = class != Class::Temporary;
    DsnRecipient { recipient: finding.recipient.clone(), class, status, why, said, is_failure }
}

fn judge_block(block: &Block, told: &[Finding]) -> Option<DsnRecipient> {
    let recipient = block.recipient()?;
    let status = block.status();
    let told = told.iter().find(|finding| finding.recipient.eq_ignore_ascii_case(&recipient));
    let Judgement { class, why } = judge_report(block, status, told);
    let said = block.diagnostic().or_else(|| told.map(|finding| finding.reply.clone()));
    let is_failure = class != Class::Temporary && block.action() == "failed";
    Some(DsnRecipient { recipient, class, status, why, said, is_failure })
}

/// `told` is what the words for people say about the same recipient.
fn judge_report(block: &Block, status: Option<Enhanced>, told: Option<&Finding>) -> Judgement {
    use Class::{OtherPermanent, Temporary, UnknownUser};
    let action = block.action();
    if action == "delayed" || matches!(status, Some(Enhanced(4, ..))) {
        return Judgement::new(Temporary, "the report is of a delay");
    }
    if action != "failed" {
        return Judgement::new(OtherPermanent, format!("the action is \"{action}\", not failed"));
    }
    if !matches!(status, None | Some(Enhanced(5, ..))) {
        return Judgement::new(OtherPermanent, "a failure without a failure's status");
    }
    let told_words = || told.map(|finding| reply::with_status(&finding.reply, status));
    let Some(words) = block.diagnostic().or_else(told_words) else {
        return match status {
            Some(Enhanced(5, 1, 1)) => {
                Judgement::new(UnknownUser, "status 5.1.1, and no diagnostic against it")
            }
            _ => Judgement::new(OtherPermanent, "no diagnostic, and a status that says little"),
        };
    };
    let stage = reply::stage(&words).or(told.map(|finding| finding.stage)).unwrap_or(Stage::Rcpt);
    let judgement = classify_text(stage, &reply::with_code(&words, status));
    if judgement.class != UnknownUser {
        return judgement;
    }
    if block.is_redirected() {
        return Judgement::new(
            OtherPermanent,
            "the unknown address is another than the one sent to",
        );
    }
    match status {
        Some(status) if contradicts(status, &words) => {
            Judgement::new(OtherPermanent, format!("status {status} contradicts the diagnostic"))
        }
        _ => judgement,
    }
}

/// A status that cannot stand for an unknown mailbox, and that the far server did not give.
fn contradicts(status: Enhanced, words: &str) -> bool {
    !super::classify::may_be_unknown_user(status) && reply::status(words) != Some(status)
}

#[cfg(test)]
mod tests;
