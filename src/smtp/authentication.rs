//! What SPF and DKIM say of a message, as it is kept with its envelope, and the header field that
//! shows it (RFC 8601).

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The name of the field.
pub const RESULTS_FIELD: &str = "Authentication-Results";

/// What was found when a message arrived, or later, when it mattered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// The host that looked: the authserv-id of RFC 8601 section 2.2.
    pub by: String,
    /// SPF of MAIL FROM's domain and the client's address (RFC 7208).
    pub spf: Finding,
    /// Each DKIM signature that was looked at (RFC 6376); empty when there was none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dkim: Vec<Signature>,
}

/// One DKIM signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// What it is worth.
    pub result: Finding,
    /// Who signed: `d=`, lowercase; empty when it cannot be said.
    pub domain: String,
}

/// A result of RFC 8601 section 2.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// There is nothing to look at.
    None,
    /// It comes from who it says.
    Pass,
    /// It does not.
    Fail,
    /// The domain's owner believes that it does not.
    SoftFail,
    /// It says nothing.
    Neutral,
    /// No answer for now, in the time there was.
    TempError,
    /// What the domain publishes, or the message has, cannot be used.
    PermError,
}

impl Finding {
    /// As the field and the metric have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

impl Authentication {
    /// Whether the message is known to come from `domain` (lowercase A-label): by SPF, when that
    /// is MAIL FROM's domain, or by a signature of the domain itself or of one above it, whose
    /// owner decides about it.
    pub fn is_of(&self, domain: &str) -> bool {
        self.is_by_spf() || self.dkim.iter().any(|signature| signature.speaks_for(domain))
    }

    /// Whether the message is known to come from `author`, the domain of its From field. SPF is
    /// about MAIL FROM's domain, `sender`, and counts where that is the same.
    pub fn is_of_author(&self, author: &str, sender: &str) -> bool {
        let is_signed = self.dkim.iter().any(|signature| signature.speaks_for(author));
        is_signed || (self.is_by_spf() && author == sender)
    }

    /// Whether the client was allowed to send for MAIL FROM's domain. A signature may be on a copy
    /// that somebody else sends again; this is about who stood at our door.
    pub fn is_by_spf(&self) -> bool {
        self.spf == Finding::Pass
    }

    /// Whether something could not be found out for now.
    pub fn is_temporary(&self) -> bool {
        let mut findings = self.dkim.iter().map(|signature| signature.result);
        self.spf == Finding::TempError || findings.any(|finding| finding == Finding::TempError)
    }

    /// The field, folded, with its CRLF. `sender_domain` is MAIL FROM's, as A-label.
    pub fn field(&self, sender_domain: &str) -> String {
        let mut field = format!("{RESULTS_FIELD}: {};\r\n\tspf={}", self.by, self.spf.as_str());
        if is_plain(sender_domain) {
            let _ = write!(field, " smtp.mailfrom={sender_domain}"); // cannot fail
        }
        if self.dkim.is_empty() {
            field.push_str(";\r\n\tdkim=none");
        }
        for signature in &self.dkim {
            let _ = write!(field, ";\r\n\tdkim={}", signature.result.as_str());
            if is_plain(&signature.domain) {
                let _ = write!(field, " header.d={}", signature.domain);
            }
        }
        field.push_str("\r\n");
        field
    }
}

impl Signature {
    fn speaks_for(&self, domain: &str) -> bool {
        self.result == Finding::Pass && covers(&self.domain, domain)
    }
}

/// Whether `signer` is `domain` or above it. A name without a dot is nobody's.
pub fn covers(signer: &str, domain: &str) -> bool {
    let above = || domain.strip_suffix(signer).is_some_and(|rest| rest.ends_with('.'));
    signer.contains('.') && (signer == domain || above())
}

/// What stands in a field as it is: a host name, and not a longer one than there can be.
fn is_plain(domain: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    (1..=255).contains(&domain.len()) && domain.bytes().all(ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(result: Finding, domain: &str) -> Signature {
        Signature { result, domain: domain.to_owned() }
    }

    fn found(spf: Finding, dkim: Vec<Signature>) -> Authentication {
        Authentication { by: "mx1.relay.test".to_owned(), spf, dkim }
    }

    #[test]
    fn spf_of_one_domain_says_nothing_of_an_author_elsewhere() {
        use Finding::{Fail, Pass};
        let by_spf = found(Pass, Vec::new());
        assert!(by_spf.is_of_author("acme.test", "acme.test"));
        assert!(!by_spf.is_of_author("acme.test", "evil.test"));
        let signed = found(Fail, vec![signed(Pass, "acme.test")]);
        assert!(signed.is_of_author("acme.test", "list.test"));
        assert!(!signed.is_of_author("evil.test", "acme.test"));
    }

    #[test]
    fn spf_or_a_signature_from_the_domain_or_above_is_enough() {
        use Finding::{Fail, None, Pass, SoftFail};
        for (spf, result, signer, expected) in [
            (Pass, None, "", true),
            (SoftFail, Pass, "acme.test", true),
            (Fail, Pass, "mail.acme.test", true),
            (None, Pass, "sub.mail.acme.test", false),
            (None, Pass, "xmail.acme.test", false),
            (None, Pass, "test", false),
            (None, Pass, "", false),
            (Fail, Fail, "acme.test", false),
        ] {
            let found = found(spf, vec![signed(result, signer)]);
            assert_eq!(found.is_of("mail.acme.test"), expected, "{found:?}");
        }
    }

    #[test]
    fn the_field_says_what_was_found_and_repeats_nothing_odd() {
        use Finding::{Neutral, Pass, TempError};
        assert_eq!(
            found(Pass, Vec::new()).field("acme.test"),
            "Authentication-Results: mx1.relay.test;\r\n\tspf=pass smtp.mailfrom=acme.test;\r\n\
             \tdkim=none\r\n"
        );
        let odd = vec![signed(Neutral, "a;b\r\nX: y"), signed(Pass, "acme.test")];
        assert_eq!(
            found(TempError, odd).field("acme.test"),
            "Authentication-Results: mx1.relay.test;\r\n\
             \tspf=temperror smtp.mailfrom=acme.test;\r\n\
             \tdkim=neutral;\r\n\tdkim=pass header.d=acme.test\r\n"
        );
    }

    #[test]
    fn what_is_kept_reads_back() {
        let found = found(Finding::SoftFail, vec![signed(Finding::PermError, "a.test")]);
        let json = serde_json::to_string(&found).unwrap();
        assert!(json.contains("\"softfail\""), "{json}");
        assert_eq!(serde_json::from_str::<Authentication>(&json).unwrap(), found);
    }
}
