//! The answer to whoever wrote to a role address, and who gets none (RFC 3834). Pure.

use super::{Mail, words};
use crate::bounce::field;
use crate::smtp::{Address, Role};

/// Senders that are programs (RFC 3834 section 2, and what is customary), by the whole local part,
const PROGRAMS: &[&str] = &[
    "mailer-daemon",
    "noreply",
    "no-reply",
    "donotreply",
    "do-not-reply",
    "listserv",
    "majordomo",
    "nobody",
    "root",
];
/// its beginning,
const PROGRAMS_BEGIN: &[&str] = &["owner-", "bounce-", "bounces-", "bounce+", "bounces+"];
/// or its end.
const PROGRAMS_END: &[&str] =
    &["-request", "-owner", "-bounce", "-bounces", "-relay", "-noreply", "-no-reply"];

/// What is looked at before somebody is answered.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// MAIL FROM, where an answer goes (RFC 3834 section 4).
    pub sender: Option<&'a Address>,
    /// The message.
    pub mail: &'a Mail,
    /// SPF or DKIM say that it is the sender's: nobody else is to hear from us.
    pub is_authentic: bool,
    /// The sender is one of us: an operator, or at the service's own names.
    pub is_ours: bool,
}

/// Why nobody is answered; `None` if the sender is.
pub fn objection(facts: Facts<'_>) -> Option<&'static str> {
    let Some(sender) = facts.sender else { return Some("null_sender") };
    if facts.is_ours {
        return Some("ours");
    }
    if let Some(why) = facts.mail.automatic {
        return Some(why);
    }
    if is_program(sender) {
        return Some("program");
    }
    (!facts.is_authentic).then_some("not_authentic")
}

fn is_program(sender: &Address) -> bool {
    let local = sender.local_part().to_ascii_lowercase();
    PROGRAMS.contains(&&*local)
        || PROGRAMS_BEGIN.iter().any(|begin| local.starts_with(begin))
        || PROGRAMS_END.iter().any(|end| local.ends_with(end))
}

/// An answer to be written. Its return path is the null one, and the caller's business.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledgement<'a> {
    /// Whom the message was written to; who answers.
    pub from: (Role, &'a Address),
    /// Who is answered.
    pub to: &'a Address,
    /// The message.
    pub mail: &'a Mail,
    /// Its queue id.
    pub about: &'a str,
    /// The answer's own id, which makes its Message-ID.
    pub id: &'a str,
    /// This host.
    pub host: &'a str,
    /// The RFC 5322 form of now.
    pub date: &'a str,
    /// Where the status page is; empty if nobody has said.
    pub site: &'a str,
}

impl Acknowledgement<'_> {
    /// Whether it can only go to servers that offer SMTPUTF8.
    pub fn needs_smtputf8(&self) -> bool {
        !self.to.is_ascii()
    }

    /// The answer as it goes on the wire.
    pub fn text(&self) -> String {
        let utf8 = self.needs_smtputf8();
        let (role, from) = self.from;
        let mut out = String::with_capacity(1024);
        let mut add = |name: &str, value: &str| field::write(&mut out, name, value, utf8);
        add("From", &format!("<{from}>"));
        add("To", &format!("<{}>", self.to));
        // RFC 3834 section 3.1.5.
        add("Subject", &words::subject("Auto: ", &self.mail.subject));
        add("Date", self.date);
        add("Message-ID", &format!("<{}@{}>", self.id, self.host));
        if let Some(about) = &self.mail.message_id {
            add("In-Reply-To", &format!("<{about}>"));
            add("References", &format!("<{about}>"));
        }
        add("Auto-Submitted", "auto-replied");
        add("MIME-Version", "1.0");
        out.push_str("Content-Type: text/plain; charset=us-ascii\r\n\r\n");
        let urgent = match role {
            Role::Trouble => "It is marked as urgent.\n",
            _ => "What cannot wait is for trouble at the same domain.\n",
        };
        let site = match self.site {
            "" => String::new(),
            site => format!("\nHow the service is, and what is planned: {site}\n"),
        };
        let about = self.about;
        field::write_lines(
            &mut out,
            &format!(
                "Your message has arrived, and goes to the people who run this mail relay.\n\
                 {urgent}If you ask about it, name its number here: {about}\n{site}\n\
                 A program wrote this. Whatever else you write within a day is read, too, but\n\
                 not answered by it."
            ),
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;

    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text, true).unwrap()
    }

    #[test]
    fn a_person_who_is_known_is_answered_and_nobody_else() {
        let person = Mail::default();
        let list = Mail { automatic: Some("mailing_list"), ..Mail::default() };
        for (sender, mail, is_authentic, is_ours, expected) in [
            ("jane@acme.test", &person, true, false, None),
            ("postmaster@acme.test", &person, true, false, None),
            ("jane@acme.test", &person, false, false, Some("not_authentic")),
            ("jane@acme.test", &person, true, true, Some("ours")),
            ("jane@acme.test", &list, true, false, Some("mailing_list")),
            ("MAILER-DAEMON@acme.test", &person, true, false, Some("program")),
            ("Owner-list@acme.test", &person, true, false, Some("program")),
            ("list-request@acme.test", &person, true, false, Some("program")),
            ("NoReply@acme.test", &person, true, false, Some("program")),
            ("x-bounces@acme.test", &person, true, false, Some("program")),
        ] {
            let sender = address(sender);
            let facts = Facts { sender: Some(&sender), mail, is_authentic, is_ours };
            assert_eq!(objection(facts), expected, "{sender}");
            assert_eq!(objection(Facts { sender: None, ..facts }), Some("null_sender"));
        }
    }

    #[test]
    fn the_answer_says_what_it_is_and_what_it_is_about() {
        let mail = Mail {
            subject: "hübsch\r\nBcc: x@y.test".to_owned(),
            message_id: Some("1@acme.test".to_owned()),
            ..Mail::default()
        };
        let answer = Acknowledgement {
            from: (Role::Trouble, &address("trouble@relay.test")),
            to: &address("jane@acme.test"),
            mail: &mail,
            about: "Q1",
            id: "A1",
            host: "mx1.relay.test",
            date: "Mon, 24 Nov 2025 16:00:01 +0000",
            site: "https://status.relay.test",
        };
        let text = answer.text();
        for line in [
            "Auto-Submitted: auto-replied\r\n",
            "In-Reply-To: <1@acme.test>\r\n",
            "References: <1@acme.test>\r\n",
            "name its number here: Q1\r\n",
            "what is planned: https://status.relay.test\r\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(text.is_ascii() && !answer.needs_smtputf8());
        let read = MessageParser::default().parse(text.as_bytes()).unwrap();
        assert_eq!(read.subject(), Some("Auto: hübsch  Bcc: x@y.test"));
        assert!(Mail::read(text.as_bytes()).automatic.is_some(), "we would not answer it");
    }
}
