//! MAIL and RCPT with the parameters a server understands, and whether a message fits it at all.
//!
//! Parameters that came from a client long ago (ENVID, ORCPT) are checked again before they leave:
//! nothing that was stored can end a command line of ours.

use super::capabilities::Capabilities;
use super::dialog::Request;
use crate::smtp::{BodyType, Enhanced, Envelope, Notify, Recipient, Response, Ret, Stage};

/// Longest ENVID and ORCPT we pass on (RFC 3461 sections 4.4 and 4.2: 100 and 500).
const PARAMETER_OCTETS_MAX: usize = 500;

/// Our own refusal to offer a message that the server could not take as it is.
pub(crate) fn check_fit(request: &Request<'_>, server: &Capabilities) -> Result<(), Response> {
    let unfit = |enhanced, text: &str| Err(Response::unfit(Stage::Mail, enhanced, text));
    let envelope = request.envelope;
    if !server.smtputf8 && (message_is_utf8(envelope) || recipients(request).all(is_utf8)) {
        return Err(needs_smtputf8());
    }
    if envelope.body == BodyType::EightBitMime && !server.eight_bit_mime {
        return unfit(Enhanced(5, 6, 3), "the server does not offer 8BITMIME");
    }
    match server.size {
        Some(limit) if limit > 0 && request.octets > limit => unfit(
            Enhanced(5, 3, 4),
            &format!("the message has {} octets, the server takes {limit}", request.octets),
        ),
        _ => Ok(()),
    }
}

/// Whether the server cannot be told this recipient (RFC 6531 section 3.4), though it may get the
/// message for others.
pub(crate) fn is_unspeakable(envelope: &Envelope, index: u32, server: &Capabilities) -> bool {
    !server.smtputf8 && recipient(envelope, index).is_some_and(is_utf8)
}

/// Our own refusal to offer anything to a server that does not know SMTPUTF8.
pub(crate) fn needs_smtputf8() -> Response {
    let text = "the server does not offer SMTPUTF8";
    Response::unfit(Stage::Mail, Enhanced(5, 6, 7), text)
}

fn message_is_utf8(envelope: &Envelope) -> bool {
    envelope.smtputf8 || envelope.mail_from.as_ref().is_some_and(|sender| !sender.is_ascii())
}

fn is_utf8(recipient: &Recipient) -> bool {
    !recipient.address.is_ascii()
}

fn recipients<'a>(request: &Request<'a>) -> impl Iterator<Item = &'a Recipient> {
    let envelope = request.envelope;
    request.recipients.iter().filter_map(|index| recipient(envelope, *index))
}

fn recipient(envelope: &Envelope, index: u32) -> Option<&Recipient> {
    envelope.recipients.get(usize::try_from(index).ok()?)
}

/// Append MAIL FROM.
pub(crate) fn write_mail(request: &Request<'_>, server: &Capabilities, out: &mut Vec<u8>) {
    let envelope = request.envelope;
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(envelope.mail_from.as_ref().map_or(b"", |a| a.as_str().as_bytes()));
    out.push(b'>');
    // A question has no size.
    if server.size.is_some() && request.octets > 0 {
        out.extend_from_slice(b" SIZE=");
        write_number(request.octets, out);
    }
    if envelope.body == BodyType::EightBitMime {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    let is_utf8 = message_is_utf8(envelope) || recipients(request).any(is_utf8);
    if server.smtputf8 && is_utf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if server.dsn {
        match envelope.ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Hdrs) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
        write_parameter(b" ENVID=", envelope.envid.as_deref(), false, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Append RCPT TO for the recipient at `index` of the envelope. An index outside of it names
/// nobody; the empty address makes the server refuse it, which the caller then sees.
pub(crate) fn write_rcpt(
    envelope: &Envelope,
    index: Option<&u32>,
    server: &Capabilities,
    out: &mut Vec<u8>,
) {
    let recipient = index.and_then(|index| recipient(envelope, *index));
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.map_or(b"", |r| r.address.as_str().as_bytes()));
    out.push(b'>');
    if server.dsn
        && let Some(recipient) = recipient
    {
        if let Some(notify) = recipient.notify {
            write_notify(notify, out);
        }
        write_parameter(b" ORCPT=", recipient.orcpt.as_deref(), envelope.smtputf8, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_notify(notify: Notify, out: &mut Vec<u8>) {
    out.extend_from_slice(b" NOTIFY=");
    if notify == Notify::NEVER {
        return out.extend_from_slice(b"NEVER");
    }
    let events: [(bool, &[u8]); 3] =
        [(notify.success, b"SUCCESS"), (notify.failure, b"FAILURE"), (notify.delay, b"DELAY")];
    let mut first = true;
    for (_, name) in events.iter().filter(|(wanted, _)| *wanted) {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        out.extend_from_slice(name);
    }
}

/// A parameter whose value is one word without control characters, or nothing.
fn write_parameter(name: &[u8], value: Option<&str>, utf8: bool, out: &mut Vec<u8>) {
    let fits = |value: &&str| {
        (1..=PARAMETER_OCTETS_MAX).contains(&value.len())
            && value.chars().all(|c| c.is_ascii_graphic() || (utf8 && !c.is_ascii()))
            && !value.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    if let Some(value) = value.filter(fits) {
        out.extend_from_slice(name);
        out.extend_from_slice(value.as_bytes());
    }
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let _ = write!(out, "{number}"); // writing to a Vec cannot fail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::envelope;
    use crate::smtp::Answer;

    fn full() -> Capabilities {
        Capabilities {
            size: Some(0),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            ..Capabilities::default()
        }
    }

    fn mail(envelope: &Envelope, server: &Capabilities) -> String {
        let mut out = Vec::new();
        write_mail(&Request { envelope, recipients: &[0], octets: 77 }, server, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn rcpt(envelope: &Envelope, server: &Capabilities) -> String {
        let mut out = Vec::new();
        write_rcpt(envelope, Some(&0), server, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plain_server_gets_no_parameters() {
        let mut envelope = envelope(&["a@b.test"]);
        envelope.ret = Some(Ret::Full);
        envelope.recipients[0].notify = Some(Notify::NEVER);
        let server = Capabilities::default();
        assert_eq!(mail(&envelope, &server), "MAIL FROM:<sender@example.test>\r\n");
        assert_eq!(rcpt(&envelope, &server), "RCPT TO:<a@b.test>\r\n");
    }

    #[test]
    fn every_parameter_is_carried_to_a_server_that_knows_it() {
        let mut envelope = envelope(&["a@b.test"]);
        envelope.mail_from = None;
        envelope.body = BodyType::EightBitMime;
        envelope.smtputf8 = true;
        envelope.ret = Some(Ret::Hdrs);
        envelope.envid = Some("id+3D1".to_owned());
        envelope.recipients[0].notify = Some(Notify { success: true, failure: true, delay: false });
        envelope.recipients[0].orcpt = Some("rfc822;a@b.test".to_owned());
        assert_eq!(
            mail(&envelope, &full()),
            "MAIL FROM:<> SIZE=77 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+3D1\r\n"
        );
        assert_eq!(
            rcpt(&envelope, &full()),
            "RCPT TO:<a@b.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@b.test\r\n"
        );
        envelope.recipients[0].notify = Some(Notify::NEVER);
        assert!(rcpt(&envelope, &full()).contains(" NOTIFY=NEVER "));
    }

    #[test]
    fn a_stored_parameter_cannot_end_the_line() {
        let mut envelope = envelope(&["a@b.test"]);
        for bad in ["a\r\nRCPT TO:<x@y.test>", "a b", "", "é", &"x".repeat(501)] {
            envelope.envid = Some(bad.to_owned());
            envelope.recipients[0].orcpt = Some(bad.to_owned());
            assert_eq!(mail(&envelope, &full()), "MAIL FROM:<sender@example.test> SIZE=77\r\n");
            assert_eq!(rcpt(&envelope, &full()), "RCPT TO:<a@b.test>\r\n");
        }
    }

    #[test]
    fn a_message_that_does_not_fit_is_not_offered() {
        let mut envelope = envelope(&["a@b.test"]);
        let check = |envelope: &Envelope, server: &Capabilities, octets| {
            let request = Request { envelope, recipients: &[0], octets };
            match check_fit(&request, server) {
                Ok(()) => None,
                Err(Response { answer: Answer::Unfit { enhanced, .. }, .. }) => Some(enhanced),
                Err(other) => panic!("{other:?}"),
            }
        };
        let plain = Capabilities::default();
        assert_eq!(check(&envelope, &plain, u64::MAX), None);
        let small = Capabilities { size: Some(100), ..full() };
        assert_eq!(check(&envelope, &small, 100), None);
        assert_eq!(check(&envelope, &small, 101), Some(Enhanced(5, 3, 4)));
        envelope.body = BodyType::EightBitMime;
        assert_eq!(check(&envelope, &plain, 1), Some(Enhanced(5, 6, 3)));
        envelope.smtputf8 = true;
        assert_eq!(check(&envelope, &plain, 1), Some(Enhanced(5, 6, 7)));
        assert_eq!(check(&envelope, &full(), 1), None);
        let utf8 = crate::client::testing::envelope(&["jürgen@b.test"]);
        assert_eq!(check(&utf8, &plain, 1), Some(Enhanced(5, 6, 7)));
    }
}
