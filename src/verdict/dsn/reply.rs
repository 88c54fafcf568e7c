//! Finding an SMTP reply, and the command it answered, in the prose of a notification.

use crate::smtp::{Enhanced, Stage};

/// The reply within some prose: from its code to the end. `None` if there is no code that stands
/// where reply codes stand: at the start of a line, or after a colon, a quote or the like. Some
/// write only the enhanced code.
pub(super) fn find(prose: &str) -> Option<&str> {
    let starts = prose.char_indices().filter(|(_, c)| matches!(c, '4' | '5'));
    starts.map(|(at, _)| (&prose[..at], &prose[at..])).find_map(|(before, reply)| {
        let last = before.trim_end_matches([' ', '\t']).chars().next_back();
        let begins = last.is_none_or(|c| "\n:'\"#(<[".contains(c))
            && !before.ends_with(|c: char| c.is_alphanumeric());
        (begins && starts_with_code(reply)).then_some(reply)
    })
}

fn starts_with_code(reply: &str) -> bool {
    if let [_, b'0'..=b'9', b'0'..=b'9', after, ..] = reply.as_bytes() {
        return matches!(after, b' ' | b'-' | b':' | b'\n' | b'\t');
    }
    // An enhanced code is at most 9 octets long; this is asked at many places of a long text.
    let end = reply.char_indices().nth(10).map_or(reply.len(), |(end, _)| end);
    Enhanced::parse_prefix(&reply[..end].replace('\n', " ")).is_some()
}

/// Words as a reply that the classifier reads: with one code in front. Words without a code get
/// 550 and the report's status, for a failure was reported.
pub(super) fn with_code(words: &str, status: Option<Enhanced>) -> String {
    let words = words.trim().trim_matches(['\'', '"', '#']).trim();
    if let Some(reply) = find(words)
        && (reply.len() == words.len() || stands_in_front(&words[..words.len() - reply.len()]))
    {
        return tidy(reply);
    }
    match status {
        Some(status) => format!("550 {status} {words}"),
        None => format!("550 {words}"),
    }
}

/// A reply without an enhanced code, with the report's status in its place.
pub(super) fn with_status(reply: &str, status: Option<Enhanced>) -> String {
    match (status, reply.split_at_checked(4)) {
        (Some(status), Some((code, text))) if Enhanced::parse_prefix(text).is_none() => {
            format!("{code}{status} {text}")
        }
        _ => reply.to_owned(),
    }
}

/// `host mx.example said: 550 ...` and the like.
fn stands_in_front(prefix: &str) -> bool {
    let prefix = prefix.trim_end();
    ["said:", "was:", "replied:", "returned", "reason:", "response:"]
        .iter()
        .any(|end| prefix.trim_end_matches([':', '\'', '"']).ends_with(end.trim_end_matches(':')))
}

/// `550: x`, `550 - x`, `550 550 x` and `550 #5.1.1 x` are all `550 x`; a lone enhanced code gets
/// the reply code of its class.
fn tidy(reply: &str) -> String {
    if let Some((Enhanced(class, ..), _)) = Enhanced::parse_prefix(reply) {
        return format!("{class}50 {reply}");
    }
    let (code, mut rest) = reply.split_at_checked(3).unwrap_or((reply, ""));
    loop {
        let trimmed = rest.trim_start_matches([' ', ':', '-', '#', '\t']);
        match trimmed.strip_prefix(code) {
            Some(after) if after.starts_with([' ', '-']) => rest = after,
            _ => return format!("{code} {trimmed}"),
        }
    }
}

/// The enhanced code in front of a reply's text.
pub(super) fn status(words: &str) -> Option<Enhanced> {
    let tidied = tidy(find(words)?);
    Enhanced::parse_prefix(tidied.get(4..)?).map(|(status, _)| status)
}

/// Phrases by which servers name the command that was answered, in lower case.
const STAGES: [(&str, Stage); 44] = [
    ("in reply to helo", Stage::Helo),
    ("in reply to ehlo", Stage::Helo),
    ("in reply to mail from", Stage::Mail),
    ("in reply to rcpt to", Stage::Rcpt),
    ("in reply to data", Stage::Data),
    ("in reply to end of data", Stage::FinalDot),
    ("while receiving the initial server greeting", Stage::Banner),
    ("after initial connection", Stage::Banner),
    ("after helo", Stage::Helo),
    ("after ehlo", Stage::Helo),
    ("after mail from", Stage::Mail),
    ("after pipelined mail from", Stage::Mail),
    ("after rcpt to", Stage::Rcpt),
    ("after pipelined rcpt to", Stage::Rcpt),
    ("after data", Stage::Data),
    ("after pipelined data", Stage::Data),
    ("after end of data", Stage::FinalDot),
    ("did not like our mail from", Stage::Mail),
    ("did not like our rcpt to", Stage::Rcpt),
    ("did not like our data", Stage::Data),
    ("does not like recipient", Stage::Rcpt),
    ("does not like sender", Stage::Mail),
    ("failed on data command", Stage::Data),
    ("failed after i sent the message", Stage::FinalDot),
    ("after rcpt", Stage::Rcpt),
    ("in response to mail from", Stage::Mail),
    ("in response to rcpt to", Stage::Rcpt),
    ("in response to data", Stage::Data),
    ("in response to end of data", Stage::FinalDot),
    ("following mail command", Stage::Mail),
    ("following rcpt command", Stage::Rcpt),
    ("following data command", Stage::Data),
    ("sent: mail from", Stage::Mail),
    ("sent: rcpt to", Stage::Rcpt),
    ("sent: data", Stage::Data),
    ("for mail from command", Stage::Mail),
    ("for rcpt to command", Stage::Rcpt),
    ("for data command", Stage::Data),
    ("for text command", Stage::FinalDot),
    ("for end of data command", Stage::FinalDot),
    ("[mail_from]", Stage::Mail),
    ("[rcpt_to]", Stage::Rcpt),
    ("[data]", Stage::Data),
    ("[final_data]", Stage::FinalDot),
];

/// The command that was answered, where the prose names it.
pub(super) fn stage(prose: &str) -> Option<Stage> {
    let prose: Vec<&str> = prose.split_whitespace().collect();
    let prose = prose.join(" ").to_ascii_lowercase();
    // Gmail numbers its states; 17 and 18 are in the text of the message.
    if prose.contains("(state 17)") || prose.contains("(state 18)") {
        return Some(Stage::FinalDot);
    }
    STAGES.iter().find(|(phrase, _)| prose.contains(phrase)).map(|(_, stage)| *stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_found_where_replies_stand() {
        assert_eq!(find("host mx.test[192.0.2.1] said: 550 no"), Some("550 no"));
        assert_eq!(find("returned '550 5.1.1 no'"), Some("550 5.1.1 no'"));
        assert_eq!(find("x\n<<< 551 no"), Some("551 no"));
        assert_eq!(find("all 550 of them"), None);
        assert_eq!(find("mx.550 no"), None);
        assert_eq!(find("550"), None);
        assert_eq!(find("host: mx\n5.1.1 no"), Some("5.1.1 no"));
    }

    #[test]
    fn words_become_a_reply_with_one_code() {
        let status = Some(Enhanced(5, 1, 1));
        assert_eq!(with_code("550: 5.1.1 no", None), "550 5.1.1 no");
        assert_eq!(with_code("550 - no", None), "550 no");
        assert_eq!(with_code("'550 550 5.1.1 no'", None), "550 5.1.1 no");
        assert_eq!(with_code("#550 5.1.1 no ##", None), "550 5.1.1 no");
        assert_eq!(with_code("host x said: 550-5.1.1 no", status), "550 5.1.1 no");
        assert_eq!(with_code("unknown user: \"x\"", status), "550 5.1.1 unknown user: \"x");
        assert_eq!(with_code("5.7.1 no", status), "550 5.7.1 no");
        assert_eq!(with_code("4.7.1 no", status), "450 4.7.1 no");
        assert_eq!(with_code("", None), "550 ");
    }

    #[test]
    fn a_status_stands_in_for_a_code_that_is_missing() {
        let status = Some(Enhanced(5, 1, 1));
        assert_eq!(with_status("550 no", status), "550 5.1.1 no");
        assert_eq!(with_status("550 5.7.1 no", status), "550 5.7.1 no");
        assert_eq!(with_status("550 no", None), "550 no");
        assert_eq!(with_status("", status), "");
    }

    #[test]
    fn the_command_is_named_in_many_ways() {
        assert_eq!(stage("x (in reply to\n    RCPT TO command)"), Some(Stage::Rcpt));
        assert_eq!(stage("after end of data: host x"), Some(Stage::FinalDot));
        assert_eq!(stage("192.0.2.25 does not like recipient."), Some(Stage::Rcpt));
        assert_eq!(stage("(state 18)."), Some(Stage::FinalDot));
        assert_eq!(stage("nothing"), None);
    }
}
