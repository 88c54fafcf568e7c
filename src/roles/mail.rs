//! What is read in a message to a role address: who wrote it, what about, and whether a person did.
//! Pure.

use mail_parser::{Message, MessageParser, MimeHeaders as _};

use crate::smtp::Address;

/// So much of a message is read.
pub const READ_OCTETS_MAX: usize = 64 * 1024;
/// So much of its text is shown to whoever is woken up.
const EXCERPT_OCTETS_MAX: usize = 1024;
/// References and ids that are longer are left out.
const ID_OCTETS_MAX: usize = 250;
/// The field that tells our copies, and those of other relays, from what is new (Postfix does so).
const DELIVERED_TO: &str = "Delivered-To";

/// A message as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mail {
    /// Whom the From field names; `None` unless that is exactly one.
    pub author: Option<Address>,
    /// The Subject.
    pub subject: String,
    /// The Message-ID, without brackets.
    pub message_id: Option<String>,
    /// The beginning of the text.
    pub excerpt: String,
    /// Why it does not look like a person's.
    pub automatic: Option<&'static str>,
    /// Whom it was delivered to before.
    pub delivered_to: Vec<String>,
}

impl Mail {
    /// Read the beginning of a message, dots unstuffed.
    pub fn read(text: &[u8]) -> Self {
        let Some(message) = MessageParser::default().parse(text) else { return Self::default() };
        let id = |id: &str| {
            let fits = id.len() <= ID_OCTETS_MAX && id.bytes().all(|b| b.is_ascii_graphic());
            (fits && !id.contains(['<', '>'])).then(|| id.to_owned())
        };
        let excerpt = message.body_text(0).unwrap_or_default();
        Self {
            author: author(&message),
            subject: message.subject().unwrap_or_default().to_owned(),
            message_id: message.message_id().and_then(id),
            excerpt: excerpt[..excerpt.floor_char_boundary(EXCERPT_OCTETS_MAX)].to_owned(),
            automatic: automatic(&message),
            delivered_to: fields(&message, DELIVERED_TO).map(str::to_ascii_lowercase).collect(),
        }
    }

    /// Whether it has been at one of these addresses before, and comes back.
    pub fn loops_at<'a>(&self, mut addresses: impl Iterator<Item = &'a Address>) -> bool {
        let was_at = |address: &Address| {
            let address = address.as_str().to_ascii_lowercase();
            self.delivered_to.iter().any(|before| before.trim_matches(['<', '>']) == address)
        };
        addresses.any(was_at)
    }
}

/// Two From fields, or two addresses in one, show different people to different readers.
fn author(message: &Message<'_>) -> Option<Address> {
    let is_from = |name: &str| name.eq_ignore_ascii_case("From");
    if message.headers().iter().filter(|header| is_from(header.name())).count() != 1 {
        return None;
    }
    let mut addresses = message.from()?.iter();
    let first = addresses.next()?.address()?;
    let author = Address::parse(first, true).ok()?;
    addresses.next().is_none().then_some(author)
}

/// RFC 3834 section 2: what no automaton may answer.
fn automatic(message: &Message<'_>) -> Option<&'static str> {
    let word = |name: &str| fields(message, name).next().map(first_word);
    if word("Auto-Submitted").is_some_and(|word| word != "no") {
        return Some("auto_submitted");
    }
    if word("Precedence").is_some_and(|word| ["bulk", "list", "junk"].contains(&&*word)) {
        return Some("precedence");
    }
    let is_of_list = |name: &str| name.get(..5).is_some_and(|n| n.eq_ignore_ascii_case("list-"));
    if message.headers().iter().any(|header| is_of_list(header.name())) {
        return Some("mailing_list");
    }
    let is_report = message.content_type().is_some_and(|kind| {
        kind.ctype().eq_ignore_ascii_case("multipart")
            && kind.subtype().is_some_and(|subtype| subtype.eq_ignore_ascii_case("report"))
    });
    is_report.then_some("report")
}

fn first_word(text: &str) -> String {
    let end = |c: char| c == ';' || c == '(' || c.is_whitespace();
    text.split(end).next().unwrap_or_default().to_ascii_lowercase()
}

/// The values of each field of this name, as they stand.
fn fields<'m>(message: &'m Message<'_>, name: &'m str) -> impl Iterator<Item = &'m str> {
    let raw = message.headers_raw().filter(move |(found, _)| found.eq_ignore_ascii_case(name));
    raw.map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Mail {
        Mail::read(format!("{fields}\r\n\r\nthe text\r\n").as_bytes())
    }

    #[test]
    fn a_persons_message_is_read_whole() {
        let mail = read(
            "From: =?utf-8?Q?J=C3=BCrgen?= <Jane@ACME.test>\r\n\
             Subject: =?utf-8?Q?hallo_=C3=BC?=\r\n\
             Message-ID: <1@acme.test>\r\nAuto-Submitted: No (really)",
        );
        assert_eq!(mail.author.unwrap().as_str(), "Jane@ACME.test");
        assert_eq!((&*mail.subject, mail.message_id.as_deref()), ("hallo ü", Some("1@acme.test")));
        assert_eq!((mail.excerpt.trim(), mail.automatic), ("the text", None));
    }

    #[test]
    fn whoever_is_named_twice_is_nobody() {
        for fields in [
            "From: a@acme.test, b@acme.test",
            "From: a@acme.test\r\nFrom: b@acme.test",
            "From: nobody",
            "Subject: x",
            "From: <a@[192.0.2.1]>",
        ] {
            assert_eq!(read(fields).author, None, "{fields}");
        }
    }

    #[test]
    fn what_no_person_wrote_is_known() {
        for (fields, expected) in [
            ("Auto-Submitted: auto-replied", Some("auto_submitted")),
            ("auto-submitted: Auto-Generated; x=y", Some("auto_submitted")),
            ("Precedence: Bulk", Some("precedence")),
            ("Precedence: first-class", None),
            ("List-Id: <x.test>", Some("mailing_list")),
            ("LIST-UNSUBSCRIBE: <https://x.test>", Some("mailing_list")),
            ("Listen: x", None),
            ("Content-Type: multipart/report; boundary=x", Some("report")),
        ] {
            assert_eq!(read(fields).automatic, expected, "{fields}");
        }
    }

    #[test]
    fn our_own_copy_that_comes_back_is_known() {
        let support = Address::parse("support@relay.test", false).unwrap();
        let noc = Address::parse("noc@relay.test", false).unwrap();
        let mail = read("Delivered-To: other@x.test\r\nDelivered-To: Support@relay.test");
        assert!(mail.loops_at([&noc, &support].into_iter()));
        assert!(!mail.loops_at(std::iter::once(&noc)));
    }

    #[test]
    fn hostile_texts_are_read_within_bounds() {
        let id = format!("Message-ID: <{}@x.test>", "x".repeat(5000));
        assert_eq!(read(&id).message_id, None);
        let long = format!("From: a@b.test\r\n\r\n{}", "ü".repeat(5000));
        assert!(Mail::read(long.as_bytes()).excerpt.len() <= EXCERPT_OCTETS_MAX);
        Mail::read(&[0xff; 3000]);
        Mail::read(b"");
    }
}
