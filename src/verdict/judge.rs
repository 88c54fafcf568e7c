//! From an answer to a verdict: delivered, try again, or failed.

use super::classify::{Class, classify};
use crate::smtp::{Answer, Enhanced, Reply, Response, Stage};

/// What an attempt means for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The server took the message.
    Delivered {
        /// What it said to the final dot.
        reply: Reply,
    },
    /// Try again later.
    Retry {
        /// Status code, 4.x.x.
        dsn: Enhanced,
        /// The reply or the failure, in words.
        text: String,
        /// What the trouble is with.
        scope: Scope,
    },
    /// Never again.
    Fail {
        /// Why.
        reason: Reason,
        /// Status code, 5.x.x.
        dsn: Enhanced,
        /// The reply or the failure, in words.
        text: String,
    },
}

impl Verdict {
    /// The status code for the log and for reports.
    pub fn dsn(&self) -> Enhanced {
        match self {
            Self::Delivered { reply } => complete(Stage::FinalDot, reply, None),
            Self::Retry { dsn, .. } | Self::Fail { dsn, .. } => *dsn,
        }
    }

    /// The reply or the failure, in one line of words.
    pub fn text(&self) -> String {
        match self {
            Self::Delivered { reply } => reply.to_string(),
            Self::Retry { text, .. } | Self::Fail { text, .. } => text.clone(),
        }
    }
}

/// What a temporary trouble is with, so that only that much is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This recipient.
    Recipient,
    /// This message, for all its recipients there.
    Message,
    /// The server, for all mail.
    Destination,
}

/// Why a recipient failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The customer's server does not know the mailbox. The only one that counts for the
    /// blacklist.
    UnknownUser,
    /// The customer's server refused for another reason.
    OtherPermanent,
    /// It stayed in the queue too long.
    Expired,
    /// There is no server to send it to.
    Unroutable,
    /// The server cannot take this kind of message.
    Unfit,
    /// It goes in circles.
    Loop,
    /// An operator removed it.
    Operator,
}

/// What a response means.
pub fn judge(response: &Response) -> Verdict {
    let stage = response.stage;
    match &response.answer {
        Answer::Reply(reply) => judge_reply(stage, reply),
        Answer::Broken(why) => Verdict::Retry {
            dsn: broken_code(stage),
            text: format!("{why} (at {stage})"),
            scope: match stage {
                // A server that breaks over a text may only dislike this text.
                Stage::Data | Stage::FinalDot => Scope::Message,
                _ => Scope::Destination,
            },
        },
        Answer::Unfit { enhanced, text } if enhanced.0 == 5 => {
            Verdict::Fail { reason: Reason::Unfit, dsn: *enhanced, text: text.clone() }
        }
        Answer::Unfit { enhanced, text } => {
            Verdict::Retry { dsn: *enhanced, text: text.clone(), scope: scope(stage) }
        }
        Answer::NotTried => Verdict::Retry {
            dsn: Enhanced(4, 0, 0),
            text: "not tried yet".to_owned(),
            scope: Scope::Recipient,
        },
    }
}

fn judge_reply(stage: Stage, reply: &Reply) -> Verdict {
    let text = reply.to_string();
    if reply.is_positive() && stage == Stage::FinalDot {
        return Verdict::Delivered { reply: reply.clone() };
    }
    if reply.is_permanent() && stage >= Stage::Mail {
        let class = classify(stage, reply).class;
        let reason = match class {
            Class::UnknownUser => Reason::UnknownUser,
            Class::OtherPermanent | Class::Temporary => Reason::OtherPermanent,
        };
        return Verdict::Fail { reason, dsn: complete(stage, reply, Some(class)), text };
    }
    // What is left: 4xx; 5xx before MAIL, which speaks of the server and not of the message
    // (RFC 5321 section 3.1: 554 instead of a greeting); and answers out of place.
    let Enhanced(_, subject, detail) = complete(stage, reply, None);
    let scope = if reply.code == 421 { Scope::Destination } else { scope(stage) };
    Verdict::Retry { dsn: Enhanced(4, subject, detail), text, scope }
}

fn scope(stage: Stage) -> Scope {
    match stage {
        Stage::Connect | Stage::Banner | Stage::Helo | Stage::StartTls => Scope::Destination,
        Stage::Mail | Stage::Data | Stage::FinalDot => Scope::Message,
        Stage::Rcpt => Scope::Recipient,
    }
}

/// RFC 3463 section 3.5 and RFC 7372's neighbours: no answer, bad connection, cryptography.
fn broken_code(stage: Stage) -> Enhanced {
    match stage {
        Stage::Connect => Enhanced(4, 4, 1),
        Stage::StartTls => Enhanced(4, 7, 5),
        _ => Enhanced(4, 4, 2),
    }
}

/// The server's enhanced code in the class of its reply code, or the one RFC 3463 would have for
/// a reply without one.
fn complete(stage: Stage, reply: &Reply, class: Option<Class>) -> Enhanced {
    // A reply code is at most 599.
    let major = u8::try_from(reply.code / 100).unwrap_or(5);
    if let Some(Enhanced(_, subject, detail)) = reply.enhanced {
        return Enhanced(major, subject, detail);
    }
    let (subject, detail) = match (reply.code, stage) {
        _ if class == Some(Class::UnknownUser) => (1, 1),
        (421, _) => (3, 2),
        (452, Stage::Rcpt) => (2, 2),
        (452, _) => (3, 1),
        (500..=504 | 555, _) => (5, 0),
        (530 | 534 | 535 | 538, _) => (7, 0),
        (521 | 556, _) => (3, 2),
        (551, _) => (1, 6),
        (552, Stage::Rcpt) => (2, 2),
        (552, _) => (3, 4),
        (553, _) => (1, 3),
        _ => (0, 0),
    };
    Enhanced(major, subject, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(stage: Stage, code: u16, enhanced: Option<Enhanced>, text: &str) -> Verdict {
        let reply = Reply { code, enhanced, lines: vec![text.to_owned()] };
        judge(&Response::reply(stage, reply))
    }

    fn short(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Delivered { .. } => format!("delivered {}", verdict.dsn()),
            Verdict::Retry { dsn, scope, .. } => format!("retry {dsn} {scope:?}"),
            Verdict::Fail { reason, dsn, .. } => format!("fail {dsn} {reason:?}"),
        }
    }

    #[test]
    fn only_a_positive_answer_to_the_final_dot_is_a_delivery() {
        let dot = judged(Stage::FinalDot, 250, Some(Enhanced(2, 0, 0)), "taken");
        assert_eq!((short(&dot), dot.text()), ("delivered 2.0.0".into(), "250 2.0.0 taken".into()));
        assert_eq!(short(&judged(Stage::FinalDot, 250, None, "ok")), "delivered 2.0.0");
        assert_eq!(short(&judged(Stage::Rcpt, 250, None, "ok")), "retry 4.0.0 Recipient");
        assert_eq!(short(&judged(Stage::FinalDot, 354, None, "?")), "retry 4.0.0 Message");
    }

    #[test]
    fn a_temporary_refusal_holds_back_as_much_as_it_is_about() {
        let scoped = |stage| short(&judged(stage, 451, Some(Enhanced(4, 3, 0)), "later"));
        for stage in [Stage::Connect, Stage::Banner, Stage::Helo, Stage::StartTls] {
            assert_eq!(scoped(stage), "retry 4.3.0 Destination");
        }
        for stage in [Stage::Mail, Stage::Data, Stage::FinalDot] {
            assert_eq!(scoped(stage), "retry 4.3.0 Message");
        }
        assert_eq!(scoped(Stage::Rcpt), "retry 4.3.0 Recipient");
        for stage in [Stage::Mail, Stage::Rcpt, Stage::FinalDot] {
            assert_eq!(short(&judged(stage, 421, None, "bye")), "retry 4.3.2 Destination");
        }
    }

    #[test]
    fn a_refusal_before_mail_is_the_servers_trouble() {
        for code in [500, 521, 550, 554] {
            for stage in [Stage::Banner, Stage::Helo, Stage::StartTls] {
                let verdict = judged(stage, code, Some(Enhanced(5, 7, 1)), "no");
                assert_eq!(short(&verdict), "retry 4.7.1 Destination");
            }
        }
    }

    #[test]
    fn a_permanent_refusal_fails_and_only_rcpt_knows_unknown_users() {
        let unknown = |stage| short(&judged(stage, 550, None, "no such user"));
        assert_eq!(unknown(Stage::Rcpt), "fail 5.1.1 UnknownUser");
        for stage in [Stage::Mail, Stage::Data, Stage::FinalDot] {
            assert_eq!(unknown(stage), "fail 5.0.0 OtherPermanent");
        }
        assert_eq!(
            short(&judged(Stage::Rcpt, 550, Some(Enhanced(5, 7, 1)), "spam")),
            "fail 5.7.1 OtherPermanent"
        );
    }

    #[test]
    fn codes_are_completed_and_brought_into_the_replys_class() {
        let code = |stage, code, enhanced| judged(stage, code, enhanced, "x").dsn().to_string();
        assert_eq!(code(Stage::Rcpt, 550, Some(Enhanced(4, 2, 2))), "5.2.2");
        assert_eq!(code(Stage::Rcpt, 452, None), "4.2.2");
        assert_eq!(code(Stage::Mail, 452, None), "4.3.1");
        assert_eq!(code(Stage::FinalDot, 552, None), "5.3.4");
        assert_eq!(code(Stage::Mail, 530, None), "5.7.0");
        assert_eq!(code(Stage::Rcpt, 599, None), "5.0.0");
    }

    #[test]
    fn failures_without_a_reply_are_retried() {
        let broken = |stage| short(&judge(&Response::broken(stage, "lost connection")));
        assert_eq!(broken(Stage::Connect), "retry 4.4.1 Destination");
        assert_eq!(broken(Stage::StartTls), "retry 4.7.5 Destination");
        assert_eq!(broken(Stage::Rcpt), "retry 4.4.2 Destination");
        assert_eq!(broken(Stage::FinalDot), "retry 4.4.2 Message");
        let untried = Response { stage: Stage::Rcpt, answer: Answer::NotTried };
        assert_eq!(short(&judge(&untried)), "retry 4.0.0 Recipient");
    }

    #[test]
    fn what_does_not_fit_fails_or_waits_by_its_class() {
        let unfit = |enhanced| short(&judge(&Response::unfit(Stage::Mail, enhanced, "x")));
        assert_eq!(unfit(Enhanced(5, 6, 7)), "fail 5.6.7 Unfit");
        assert_eq!(unfit(Enhanced(4, 3, 0)), "retry 4.3.0 Message");
        let tls = Response::unfit(Stage::StartTls, Enhanced(4, 7, 5), "x");
        assert_eq!(short(&judge(&tls)), "retry 4.7.5 Destination");
    }
}
