//! From the bytes of a notification to its parts: the text for people, the fields for machines.

use std::borrow::Cow;

use mail_parser::decoders::html::html_to_text;
use mail_parser::{Message, MessageParser, MimeHeaders as _, PartType};

use super::fields::{self, Block};

/// So much of a notification is looked at; what counts stands in front.
const OCTETS_MAX: usize = 512 * 1024;
/// Deeper nesting, or more parts, than any notification has. It bounds the parser's work, and
/// its depth, on a message made to hurt.
const CONTENT_TYPES_MAX: usize = 32;

/// A notification, taken apart.
#[derive(Debug, Default)]
pub(super) struct Notice {
    /// The text for people, up to the copy of the returned message.
    pub(super) text: String,
    /// The fields about each recipient.
    pub(super) blocks: Vec<Block>,
    /// Exim's and Gmail's header field with the addresses that failed.
    pub(super) failed_recipients: Vec<String>,
    /// Who wrote the notification and to whom, in lower case: nobody of whom it tells.
    pub(super) correspondents: Vec<String>,
}

impl Notice {
    /// Take a message apart. `None` if it is no message at all.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = cut(bytes);
        let message = MessageParser::default().parse(bytes)?;
        let failed = message.header_raw("X-Failed-Recipients").unwrap_or_default();
        let mut notice = Self {
            failed_recipients: failed.split([',', ' ', '\r', '\n']).map(str::to_owned).collect(),
            ..Self::default()
        };
        notice.failed_recipients.retain(|address| address.contains('@'));
        let correspondents = [message.from(), message.to()].into_iter().flatten();
        notice.correspondents = correspondents
            .flat_map(|list| list.iter())
            .filter_map(|one| one.address().map(str::to_lowercase))
            .collect();
        let mut status = String::new();
        collect(&message, &mut notice.text, &mut status);
        notice.text = before_the_copy(&notice.text);
        notice.blocks = fields::parse(&status);
        if notice.blocks.is_empty() {
            // Some put the fields among the words for people.
            notice.blocks = fields::parse(&notice.text);
        }
        Some(notice)
    }
}

/// Text and status fields of a message's own parts, not of a message within it.
fn collect(message: &Message<'_>, text: &mut String, status: &mut String) {
    let mut html = None;
    for part in &message.parts {
        let kind = part.content_type();
        let subtype = kind.and_then(|kind| kind.subtype()).unwrap_or("plain");
        if let PartType::Html(words) = &part.body {
            html = html.or(Some(words));
        }
        // A multipart whose boundary is lost comes as one piece.
        let is_multipart = kind.is_some_and(|kind| kind.ctype() == "multipart");
        if subtype != "plain" && !is_multipart && !subtype.ends_with("delivery-status") {
            continue;
        }
        let words = match &part.body {
            PartType::Text(words) => Cow::Borrowed(&**words),
            PartType::Binary(bytes) | PartType::InlineBinary(bytes) => {
                String::from_utf8_lossy(bytes)
            }
            PartType::Html(_) | PartType::Message(_) | PartType::Multipart(_) => continue,
        };
        let target = if subtype.ends_with("delivery-status") { &mut *status } else { &mut *text };
        target.push_str(&words);
        target.push_str("\n\n");
    }
    if let (true, Some(html)) = (text.trim().is_empty(), html) {
        text.push_str(&html_to_text(html));
    }
    if text.contains('\r') {
        *text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
}

/// The bytes up to the bounds.
fn cut(bytes: &[u8]) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(OCTETS_MAX)];
    let name = b"content-type";
    let ends = bytes
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| window.eq_ignore_ascii_case(name))
        .map(|(at, _)| at);
    match ends.take(CONTENT_TYPES_MAX + 1).nth(CONTENT_TYPES_MAX) {
        Some(end) => &bytes[..end],
        None => bytes,
    }
}

/// Beginnings of lines, in lower case, that introduce the returned message.
const COPY: [&str; 13] = [
    "--- below this line is a copy",
    "--- enclosed is a copy",
    "--- original message",
    "------ this is a copy of the message",
    "----- original message",
    "----- unsent message",
    "----- message header follows",
    "----- message body suppressed",
    "------- returned message",
    "------ returned message",
    "original message follows",
    "original message headers",
    "below is a copy of the original message",
];

/// Header fields with which a returned message begins.
const COPY_HEADERS: [&str; 3] = ["return-path:", "received:", "message-id:"];

/// The lines before the copy of the returned message, whose words are not the server's.
fn before_the_copy(text: &str) -> String {
    let is_copy = |line: &&str| {
        let line = line.to_ascii_lowercase();
        COPY.iter().any(|beginning| line.trim_start().starts_with(beginning))
            || COPY_HEADERS.iter().any(|name| line.starts_with(name))
    };
    let lines: Vec<&str> = text.lines().take_while(|line| !is_copy(line)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_whatever_their_encoding() {
        let text = "Subject: x\r\nContent-Type: multipart/report; boundary=b\r\n\r\n\
            --b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            <a@b.test>: un=\r\nknown\r\n--b\r\nContent-Type: message/delivery-status\r\n\
            Content-Transfer-Encoding: base64\r\n\r\n\
            RmluYWwtUmVjaXBpZW50OiByZmM4MjI7YUBiLnRlc3QKQWN0aW9uOiBmYWlsZWQK\r\n\
            --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\n<c@d.test>: z\r\n\
            --b--\r\n";
        let notice = Notice::read(text.as_bytes()).unwrap();
        assert_eq!(notice.text.trim(), "<a@b.test>: unknown");
        assert_eq!(notice.blocks.len(), 1);
        assert_eq!(notice.blocks[0].recipient().as_deref(), Some("a@b.test"));
    }

    #[test]
    fn a_message_nested_for_ever_is_cut() {
        let deep = "Content-Type: message/rfc822\n\n".repeat(200_000);
        assert!(Notice::read(deep.as_bytes()).is_some());
        let wide = "Content-Type: multipart/mixed; boundary=a\n\n--a\n".repeat(10_000);
        assert!(Notice::read(wide.as_bytes()).is_some());
    }
}
