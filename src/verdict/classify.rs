//! Does a refusal say, for good, that the mailbox does not exist?
//!
//! Ten such refusals blacklist a recipient, so precision comes first: what is not clear does not
//! count. The rules are tried in order, and the first that decides wins:
//!
//! 1. Only the reply to RCPT TO can count; anywhere else a refusal is about more than the mailbox.
//! 2. Only 5xx can count, and not with an enhanced code of another class.
//! 3. Some codes never count, others only when the text is explicit.
//! 4. A veto in the text (spam, policy, sender, quota, disabled ...) beats everything but the
//!    sayings of single providers that are known to mean it.
//! 5. 5.1.1 counts; some enhanced codes leave it to the text; all others do not count.
//! 6. The text counts if it names a mailbox and says that it does not exist, and does not speak of
//!    something of the client's.
//!
//! A reply that quotes another server's reply is judged by its own code and all of the text.
//! The phrases are in `patterns.txt`.

use super::patterns::PATTERNS;
use super::words::words;
use crate::smtp::{Enhanced, Reply, Stage};

/// What a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The mailbox does not exist, for good. Counts against the recipient.
    UnknownUser,
    /// For good, for any other reason, or for one that is not clear.
    OtherPermanent,
    /// To be tried again.
    Temporary,
}

impl Class {
    /// The name that the command line prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
            Self::OtherPermanent => "other_permanent",
            Self::Temporary => "temporary",
        }
    }
}

/// A class, and the rule that decided it, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The class.
    pub class: Class,
    /// Why.
    pub why: String,
}

impl Judgement {
    pub(crate) fn new(class: Class, why: impl Into<String>) -> Self {
        Self { class, why: why.into() }
    }
}

/// Codes that speak of the dialog, of authentication, or of a host that takes no mail.
const CODES_NEVER: [std::ops::RangeInclusive<u16>; 7] =
    [500..=500, 502..=504, 521..=521, 523..=525, 530..=538, 541..=541, 555..=556];

/// Codes under which 5.1.1 is believed without words.
const CODES_USUAL: [u16; 5] = [511, 550, 551, 553, 554];

/// Judge a reply that was given at `stage`.
pub fn classify(stage: Stage, reply: &Reply) -> Judgement {
    let text = reply.text();
    judge(stage, Some(reply.code), reply.enhanced, &text)
}

/// Judge a reply as it stands in a log or a report: one or more lines, with their codes; a line end
/// may be written as `\n`. Any text will do; one without a reply code does not count.
pub fn classify_text(stage: Stage, raw: &str) -> Judgement {
    let (code, enhanced, text) = split(&raw.replace("\\n", "\n"));
    judge(stage, code, enhanced, &text)
}

/// The code and enhanced code of the first line, and the text of all lines without them.
fn split(raw: &str) -> (Option<u16>, Option<Enhanced>, String) {
    let mut code = None;
    let mut enhanced = None;
    let mut text = String::with_capacity(raw.len());
    for (number, line) in raw.trim().lines().enumerate() {
        let mut rest = line.trim();
        if let Some((found, after)) = leading_code(rest)
            && (number == 0 || code == Some(found))
        {
            code = Some(found);
            rest = after;
        }
        if let Some((found, after)) = Enhanced::parse_prefix(rest)
            && (number == 0 || enhanced == Some(found))
        {
            enhanced = Some(found);
            rest = after;
        }
        text.push_str(rest);
        text.push('\n');
    }
    (code, enhanced, text)
}

/// `550 rest`, `550-rest` or `550`.
fn leading_code(line: &str) -> Option<(u16, &str)> {
    let (code, rest) = line.split_at_checked(3)?;
    let code: u16 = code.bytes().all(|b| b.is_ascii_digit()).then(|| code.parse().ok())??;
    match rest.chars().next() {
        None => Some((code, rest)),
        Some(' ' | '-' | '\t') => Some((code, rest[1..].trim_start())),
        Some(_) => None,
    }
}

fn judge(stage: Stage, code: Option<u16>, enhanced: Option<Enhanced>, text: &str) -> Judgement {
    use Class::{OtherPermanent, Temporary};
    let other = |why: &str| Judgement::new(OtherPermanent, why);
    let code = match (code, enhanced) {
        (Some(code @ 400..=499), _) => {
            return Judgement::new(Temporary, format!("code {code} asks to try again"));
        }
        (Some(code @ 500..=599), _) => code,
        (None, Some(Enhanced(4, ..))) => {
            return Judgement::new(Temporary, "the enhanced code asks to try again");
        }
        (Some(code), _) => return other(&format!("code {code} is no refusal")),
        (None, _) => return other("no reply code"),
    };
    if stage != Stage::Rcpt {
        return other(&format!("a refusal at {stage} is not about one recipient"));
    }
    if CODES_NEVER.iter().any(|codes| codes.contains(&code)) {
        return other(&format!("code {code} is never about an unknown mailbox"));
    }
    let enhanced = enhanced.or_else(|| embedded_code(text));
    if let Some(enhanced @ Enhanced(class, ..)) = enhanced
        && class != 5
    {
        return other(&format!("enhanced code {enhanced} contradicts code {code}"));
    }
    judge_text(code, enhanced, text)
}

/// Rules 4 to 6.
fn judge_text(code: u16, enhanced: Option<Enhanced>, text: &str) -> Judgement {
    use Class::{OtherPermanent, UnknownUser};
    let Some(words) = words(text) else {
        return Judgement::new(OtherPermanent, "the text is too long to be judged");
    };
    if let Some(why) = provider_saying(code, enhanced, text) {
        return Judgement::new(UnknownUser, why);
    }
    if let Some(veto) = PATTERNS.veto.find(&PATTERNS.harmless.remove_from(&words)) {
        return Judgement::new(OtherPermanent, format!("the text speaks of \"{veto}\""));
    }
    match weight(enhanced) {
        Weight::UnknownUser if CODES_USUAL.contains(&code) => {
            return Judgement::new(UnknownUser, "5.1.1, and nothing in the text against it");
        }
        Weight::UnknownUser | Weight::Text => {}
        Weight::Other => {
            let code = enhanced.map(|e| e.to_string()).unwrap_or_default();
            return Judgement::new(OtherPermanent, format!("{code} is not an unknown mailbox"));
        }
    }
    if let Some(doubt) = PATTERNS.doubt.find(&PATTERNS.addressed.remove_from(&words)) {
        return Judgement::new(OtherPermanent, format!("the text may be about \"{doubt}\""));
    }
    match PATTERNS.unknown_user.find(&words) {
        Some(phrase) => Judgement::new(UnknownUser, format!("the text says \"{phrase}\"")),
        None => Judgement::new(OtherPermanent, "the text does not say that the mailbox is unknown"),
    }
}

enum Weight {
    /// Says it by itself.
    UnknownUser,
    /// Is used for this and for other things.
    Text,
    /// Means something else.
    Other,
}

/// Rule 5.
fn weight(enhanced: Option<Enhanced>) -> Weight {
    match enhanced {
        Some(Enhanced(_, 1, 1)) => Weight::UnknownUser,
        None
        | Some(
            Enhanced(_, 0, _)
            | Enhanced(_, 1, 0 | 2 | 3 | 351)
            | Enhanced(_, 2, 0 | 1)
            | Enhanced(_, 3 | 5, 0)
            | Enhanced(_, 7, 0 | 1 | 17),
        ) => Weight::Text,
        Some(_) => Weight::Other,
    }
}

/// Whether a status code can stand for an unknown mailbox at all.
pub(crate) fn may_be_unknown_user(status: Enhanced) -> bool {
    !matches!(weight(Some(status)), Weight::Other)
}

/// What single providers say for an unknown mailbox, in words that mean something else elsewhere.
fn provider_saying(code: u16, enhanced: Option<Enhanced>, text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let says = |part: &str| text.contains(part);
    match enhanced {
        // RFC 7505 uses 5.1.10 for a domain that takes no mail, with code 556.
        Some(Enhanced(_, 1, 10))
            if code == 550
                && (says("recipientnotfound") || says("not found by smtp address lookup")) =>
        {
            Some("Exchange did not find the recipient")
        }
        // Directory based edge blocking.
        Some(Enhanced(_, 4, 1))
            if says("recipient address rejected: access denied")
                && says(".protection.outlook.com")
                && !says("all recipient addresses rejected") =>
        {
            Some("Exchange Online's directory does not have the recipient")
        }
        // The words alone are what RFC 5321 suggests for any 550.
        Some(Enhanced(_, 5, 0))
            if says("mailbox unavailable") && says("s2017062302") && says("outlook.com") =>
        {
            Some("Outlook.com does not have the mailbox")
        }
        _ => None,
    }
}

/// An enhanced code within the text, such as `(#5.1.1)`, for servers that do not put it in front.
fn embedded_code(text: &str) -> Option<Enhanced> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|piece| piece.trim_end_matches('.'))
        .filter_map(|piece| Enhanced::parse_prefix(piece).map(|(code, _)| code))
        // RFC 3463 has seven subjects; `4.96.2` is the version of some server.
        .find(|Enhanced(class, subject, _)| matches!(class, 4 | 5) && *subject <= 7)
}

#[cfg(test)]
mod tests;
