//! Notifications in plain text: the forms of qmail, Postfix, Exim, OpenSMTPD, DragonFly, Sendmail,
//! Exchange, IMail, Notes and Netscape, and of the large providers that write like them.

use super::notice::Notice;
use super::{Finding, reply};
use crate::smtp::Stage;

/// Everything the text says about recipients, in the first form that fits.
pub(super) fn findings(notice: &Notice) -> Vec<Finding> {
    let forms: [fn(&Notice) -> Vec<Finding>; 9] =
        [labelled, transcript, listed, dragonfly, notes, named, lone, announced, inline];
    forms.iter().map(|form| form(notice)).find(|found| !found.is_empty()).unwrap_or_default()
}

/// A finding from the words about a recipient, if they hold a reply, or if a failure without a
/// reply is what this form reports.
fn finding(recipient: &str, words: &str, codeless: bool) -> Option<Finding> {
    let found = reply::find(words);
    if found.is_none() && !codeless {
        return None;
    }
    Some(Finding {
        recipient: recipient.to_owned(),
        stage: reply::stage(words).unwrap_or(Stage::Rcpt),
        reply: reply::with_code(found.unwrap_or(words), None),
    })
}

/// `<address>: words` or `<address>:` and words in the lines below (qmail, Postfix, Yahoo,
/// Courier), and `address: 550 words` (OpenSMTPD).
fn labelled(notice: &Notice) -> Vec<Finding> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in notice.text.lines() {
        if let Some((recipient, words)) = label(line) {
            found.push((recipient.to_owned(), words.to_owned()));
            open = true;
        } else if line.trim().is_empty() {
            open = false;
        } else if let (true, Some((_, words))) = (open, found.last_mut()) {
            words.push('\n');
            words.push_str(line.trim());
        }
    }
    let permanent = says_permanent(notice);
    found.iter().filter_map(|(recipient, words)| finding(recipient, words, permanent)).collect()
}

fn label(line: &str) -> Option<(&str, &str)> {
    if let Some(rest) = line.strip_prefix('<') {
        let (recipient, words) = rest.split_once(">:")?;
        return is_address(recipient).then_some((recipient, words.trim()));
    }
    let (recipient, words) = line.split_once(": ")?;
    let is_reply = reply::find(words.trim()).is_some_and(|r| r.len() == words.trim().len());
    (is_address(recipient) && is_reply).then_some((recipient, words.trim()))
}

/// What these say in their own words, without a reply, is for good.
fn says_permanent(notice: &Notice) -> bool {
    let text = notice.text.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    says(&[
        "permanent error",
        "permanent fatal error",
        "permanent failure",
        "failed permanently",
        "unable to deliver message to the following",
        "msexch:ims",
        "was not delivered to",
    ]) && !says(&["delayed", "will be retried", "keep trying", "continue to try", "warning"])
}

/// A line that is an address, and the lines below about it (Exim, Exchange, Domino, old Gmail,
/// MessageLabs, 1&1).
fn listed(notice: &Notice) -> Vec<Finding> {
    let lines: Vec<&str> = notice.text.lines().map(str::trim).collect();
    let permanent = says_permanent(notice);
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(recipient) = lone_address(line) else { continue };
        let words = words_below(&lines[at + 1..]);
        if !is_alias(&words) {
            found.extend(finding(recipient, &words, permanent));
        }
    }
    found
}

/// Exim's note that the address that failed is not the one we sent to.
fn is_alias(words: &str) -> bool {
    words.contains("generated from")
}

/// The paragraph about an address; more of them as long as they only lead up to the reply.
fn words_below(lines: &[&str]) -> String {
    let mut words = String::new();
    let about_it = lines.iter().take(LINES_ABOUT_MAX).take_while(|l| lone_address(l).is_none());
    for line in about_it {
        let begun = !words.is_empty() && !words.ends_with(':');
        if line.is_empty() && begun && reply::find(&words).is_some() {
            break;
        }
        if !line.is_empty() {
            words.push_str(if words.is_empty() { "" } else { "\n" });
            words.push_str(line);
        }
    }
    words
}

/// Lines below an address that may be about it.
const LINES_ABOUT_MAX: usize = 12;

/// `address`, `<address>`, `"address":`, `address<mailto:address>` or `address on Thu, 29 Apr`.
fn lone_address(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("* ");
    let line = line.split_once(" on ").map_or(line, |(address, _)| address);
    let line = line.split_once("<mailto:").map_or(line, |(address, _)| address);
    let line = match line.strip_prefix('<') {
        Some(rest) => rest.strip_suffix('>')?,
        None => line.trim_end_matches(':').trim_matches('"'),
    };
    is_address(line).then_some(line)
}

/// Sendmail's transcript of the session: `>>> RCPT To:<address>`, `<<< 550 words`, and its own
/// summary `550 <address>... words` where there was no session. The summary after a session is a
/// translation and says less than the reply.
fn transcript(notice: &Notice) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut command = "";
    let mut recipient: Option<&str> = None;
    let mut answered = false;
    for line in notice.text.lines().map(str::trim) {
        if let Some(sent) = line.strip_prefix(">>> ") {
            command = sent;
            answered = false;
            if let Some(address) = rcpt_to(sent) {
                recipient = Some(address);
            }
        } else if let Some(address) = line.strip_prefix("Recipient: ") {
            recipient = lone_address(address);
        } else if let Some(said) = line.strip_prefix("<<< ") {
            let stage = stage_of(command);
            if let (Some(recipient), Some(stage), false) = (recipient, stage, answered) {
                let reply = reply::with_code(said, None);
                found.push(Finding { recipient: recipient.to_owned(), stage, reply });
            }
            answered = true;
        } else if line.to_ascii_lowercase().contains("while talking to") {
            (command, answered) = ("", false);
        } else if let Some((recipient, reply)) = summary(line)
            && !answered
        {
            let recipient = recipient.to_owned();
            found.push(Finding { recipient, stage: Stage::Rcpt, reply });
        }
    }
    found
}

/// The address in `RCPT TO:<address>`.
fn rcpt_to(command: &str) -> Option<&str> {
    let prefix = command.get(..8).filter(|p| p.eq_ignore_ascii_case("rcpt to:"))?;
    let address = command[prefix.len()..].trim().trim_start_matches('<');
    let address = address.split(['>', ' ']).next()?;
    is_address(address).then_some(address)
}

fn stage_of(command: &str) -> Option<Stage> {
    let verb = command.split([' ', ':']).next()?.to_ascii_lowercase();
    match verb.as_str() {
        "helo" | "ehlo" => Some(Stage::Helo),
        "mail" => Some(Stage::Mail),
        "rcpt" => Some(Stage::Rcpt),
        "data" => Some(Stage::Data),
        "." => Some(Stage::FinalDot),
        _ => None,
    }
}

/// `550 <address>... words` and `550 5.1.1 address... words`.
fn summary(line: &str) -> Option<(&str, String)> {
    let reply = reply::find(line).filter(|reply| reply.len() == line.len())?;
    let (front, words) = reply.split_once("...")?;
    let (codes, recipient) = front.rsplit_once(' ')?;
    let recipient = recipient.trim_start_matches('<').trim_end_matches('>');
    let is_code = |word: &str| word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (codes.split_whitespace().all(is_code) && is_address(recipient))
        .then(|| (recipient, reply::with_code(&format!("{codes} {}", words.trim_start()), None)))
}

/// DragonFly: the address in a sentence, the reply on a line of its own.
fn dragonfly(notice: &Notice) -> Vec<Finding> {
    let sentence = "error delivering your mail to <";
    let Some((_, rest)) = notice.text.split_once(sentence) else { return Vec::new() };
    let Some((recipient, words)) = rest.split_once('>') else { return Vec::new() };
    finding(recipient, words, false).into_iter().collect()
}

/// Notes: the words first, the address below.
fn notes(notice: &Notice) -> Vec<Finding> {
    let Some((_, rest)) = notice.text.split_once("Failure Reasons") else { return Vec::new() };
    let lines: Vec<&str> = rest.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| is_address(pair[1]) && !is_address(pair[0]));
    pairs.filter_map(|pair| finding(pair[1], pair[0], true)).collect()
}

/// `Recipient: address` or `Failed Recipient: [SMTP:address]`, and lines below with the reply
/// (SmarterMail, MailEnable).
fn named(notice: &Notice) -> Vec<Finding> {
    let lines: Vec<&str> = notice.text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((label, value)) = line.split_once(": ") else { continue };
        if !label.to_ascii_lowercase().ends_with("recipient") {
            continue;
        }
        let value = value.trim().trim_start_matches("[SMTP:").trim_end_matches(']');
        if let Some(recipient) = lone_address(value) {
            found.extend(finding(recipient, &words_below(&lines[at + 1..]), false));
        }
    }
    found
}

/// One recipient, named in the header, in a quoted command or nowhere but in the words, and one
/// reply somewhere.
fn lone(notice: &Notice) -> Vec<Finding> {
    if is_alias(&notice.text) {
        return Vec::new();
    }
    let quoted = notice.text.lines().filter_map(|line| {
        let at = line.to_ascii_lowercase().find("rcpt to:")?;
        rcpt_to(line.get(at..)?)
    });
    let mut recipients: Vec<&str> =
        notice.failed_recipients.iter().map(String::as_str).chain(quoted).collect();
    if recipients.is_empty() {
        recipients = named_in_words(notice);
    }
    recipients.sort_unstable();
    recipients.dedup();
    let ([recipient], Some(reply)) = (&recipients[..], reply::find(&notice.text)) else {
        return Vec::new();
    };
    let paragraph = reply.split("\n\n").next().unwrap_or(reply);
    let found = finding(recipient, paragraph, false);
    // The command may be named in the words before the reply.
    let stage = reply::stage(&notice.text);
    found.map(|f| Finding { stage: stage.unwrap_or(f.stage), ..f }).into_iter().collect()
}

/// Addresses in a text about a delivery, of others than those who correspond here.
fn named_in_words(notice: &Notice) -> Vec<&str> {
    let text = notice.text.to_ascii_lowercase();
    if !["deliver", "reject", "fail", "return"].iter().any(|word| text.contains(word)) {
        return Vec::new();
    }
    let pieces = notice.text.split(|c: char| c.is_whitespace() || "<>()[]\"',;:".contains(c));
    let addresses = pieces.map(|piece| piece.trim_matches('.')).filter(|piece| is_address(piece));
    let known = |address: &&str| notice.correspondents.contains(&address.to_lowercase());
    addresses.filter(|address| !known(address)).collect()
}

/// A paragraph that says what is wrong, and one with the addresses it is about (Netscape).
fn announced(notice: &Notice) -> Vec<Finding> {
    let paragraphs: Vec<&str> =
        notice.text.split("\n\n").filter(|p| !p.trim().is_empty()).collect();
    let mut found = Vec::new();
    for pair in paragraphs.windows(2).filter(|pair| pair[0].trim_end().ends_with(':')) {
        let addresses = pair[1].lines().map(|line| line.trim().trim_start_matches("SMTP "));
        let addresses = addresses.map_while(lone_address);
        found.extend(addresses.filter_map(|address| finding(address, pair[0], true)));
    }
    found
}

/// `Unknown user: address` on a line of its own (IMail and others).
fn inline(notice: &Notice) -> Vec<Finding> {
    notice
        .text
        .lines()
        .filter_map(|line| line.trim().rsplit_once(": "))
        .filter_map(|(words, address)| Some((words, lone_address(address)?)))
        .filter_map(|(words, address)| finding(address, words, true))
        .collect()
}

fn is_address(text: &str) -> bool {
    match text.rsplit_once('@') {
        Some((local, domain)) => {
            !local.is_empty()
                && domain.contains(|c: char| c.is_alphanumeric())
                && !text.contains(|c: char| c.is_whitespace() || "<>,;:()".contains(c))
        }
        None => false,
    }
}
