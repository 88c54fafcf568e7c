//! A mailbox address: the local part as it was given, and the domain as a lowercase A-label.
//!
//! RFC 5321 section 4.1.2, with RFC 6531 for UTF-8. Address literals, source routes and relay
//! tricks (`user%other@domain`) are not addresses we accept mail for; the parser here only says
//! whether the text is one well-formed mailbox, and stage 3 decides what may pass.

use std::borrow::Cow;
use std::fmt;

/// RFC 5321 section 4.5.3.1.1 names 64, and asks for no limit where that can be. Return paths that
/// encode another address (VERP, SRS) are often longer, so we take what a domain may have.
pub const LOCAL_PART_OCTETS_MAX: usize = 255;
/// RFC 5321 section 4.5.3.1.2.
pub const DOMAIN_OCTETS_MAX: usize = 255;

/// Why a text is not a mailbox address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `@`, or nothing on one side of it.
    #[error("an address needs a local part, an @ and a domain")]
    Incomplete,
    /// The local part has a character RFC 5321 does not allow there, or a broken quoted string.
    #[error("the local part has a character that is not allowed")]
    LocalPart,
    /// The domain is not a host name.
    #[error("the domain is not a host name")]
    Domain,
    /// An address literal such as `user@[192.0.2.1]`.
    #[error("address literals are not accepted")]
    Literal,
    /// Longer than we take.
    #[error("the address is too long")]
    TooLong,
    /// A character outside ASCII in a session without SMTPUTF8 (RFC 6531 section 3.5).
    #[error("the address needs SMTPUTF8")]
    NeedsUtf8,
}

/// One mailbox: `local-part@domain`.
///
/// `Display` gives it back as it was written, except that nothing was ever inside but the mailbox
/// (no brackets, no source route).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    at: u16,
    domain: Box<str>,
}

impl Address {
    /// Parse a mailbox without its angle brackets. `utf8` says whether characters outside ASCII
    /// are allowed (the SMTPUTF8 parameter was given).
    pub fn parse(text: &str, utf8: bool) -> Result<Self, AddressError> {
        if !utf8 && !text.is_ascii() {
            return Err(AddressError::NeedsUtf8);
        }
        let at = split(text)?;
        let (local, domain) = (&text[..at], &text[at + 1..]);
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError::Incomplete);
        }
        if domain.starts_with('[') {
            return Err(AddressError::Literal);
        }
        if local.len() > LOCAL_PART_OCTETS_MAX || domain.len() > DOMAIN_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        check_local_part(local)?;
        let domain = domain_to_ascii(domain)?;
        let at = u16::try_from(at).map_err(|_| AddressError::TooLong)?;
        Ok(Self { text: text.into(), at, domain })
    }

    /// The local part as it was written, quotes included.
    pub fn local_part(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    /// The local part with quotes and backslashes only where it needs them: however it is quoted,
    /// it is the same mailbox (RFC 5321 section 4.1.2).
    pub fn plain_local_part(&self) -> Cow<'_, str> {
        let local = self.local_part();
        let Some(quoted) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Cow::Borrowed(local);
        };
        let (mut plain, mut chars) = (String::with_capacity(local.len()), quoted.chars());
        while let Some(c) = chars.next() {
            plain.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        if is_dot_string(&plain) {
            return Cow::Owned(plain);
        }
        Cow::Owned(format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\"")))
    }

    /// The domain as lowercase A-label, the form every table is keyed by.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The whole address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a next hop must offer SMTPUTF8 to be given this address.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// Whether people mean the same by both: the case of letters does not matter.
    pub fn is_same(&self, other: &Self) -> bool {
        self.domain == other.domain
            && self.local_part().to_lowercase() == other.local_part().to_lowercase()
    }

    /// `postmaster`, in any case (RFC 5321 section 4.5.1).
    pub fn is_postmaster(&self) -> bool {
        self.plain_local_part().eq_ignore_ascii_case("postmaster")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text, true).map_err(serde::de::Error::custom)
    }
}

/// The domain name `text` as lowercase A-label without a trailing dot, or why it is none.
///
/// Full-width letters, ideographic full stops and the like are mapped as UTS 46 says, so that one
/// domain has one spelling in every table.
pub fn domain_to_ascii(text: &str) -> Result<Box<str>, AddressError> {
    if is_plain_host_name(text) {
        return Ok(text.to_ascii_lowercase().into());
    }
    // UTS 46 maps a lone ASCII text to itself, odd characters included, so only the check after
    // it decides.
    let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Domain)?;
    if is_plain_host_name(&ascii) { Ok(ascii.into()) } else { Err(AddressError::Domain) }
}

/// Letters, digits and hyphens in labels of 1 to 63 octets, at most 255 in all, with at least one
/// letter in the last label (so that `2130706433` and `127.0.0.1` are no domains), and no label
/// with the A-label prefix that has not been checked by IDNA.
fn is_plain_host_name(text: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= DOMAIN_OCTETS_MAX
        && text.split('.').all(label_ok)
        && text.rsplit('.').next().is_some_and(|l| l.bytes().any(|b| b.is_ascii_alphabetic()))
        && text.split('.').all(|label| {
            !label.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("xn--"))
                || idna::domain_to_unicode(label).1.is_ok()
        })
}

/// Index of the `@` that ends the local part.
fn split(text: &str) -> Result<usize, AddressError> {
    if !text.starts_with('"') {
        return text.find('@').ok_or(AddressError::Incomplete);
    }
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' if text.as_bytes().get(index + 1) == Some(&b'@') => return Ok(index + 1),
            b'"' => return Err(AddressError::LocalPart),
            _ => {}
        }
    }
    Err(AddressError::LocalPart)
}

/// Dot-string or quoted-string of RFC 5321 section 4.1.2; UTF-8 beyond ASCII as in RFC 6531, but
/// no control characters, and no white space or other invisible separators.
fn check_local_part(local: &str) -> Result<(), AddressError> {
    let ok = match local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) if local.len() >= 2 => {
            let ascii_ok = |c: char| !c.is_ascii() || (' '..='~').contains(&c);
            quoted.chars().all(|c| ascii_ok(c) && !is_invisible(c))
        }
        _ => is_dot_string(local),
    };
    if ok { Ok(()) } else { Err(AddressError::LocalPart) }
}

fn is_dot_string(local: &str) -> bool {
    local
        .split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(|c| is_atext(c) && !is_invisible(c)))
}

fn is_atext(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

/// Characters that print as nothing, so that two different mailboxes look the same.
fn is_invisible(c: char) -> bool {
    (!c.is_ascii() && (c.is_control() || c.is_whitespace()))
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_spelling_and_has_a_lowercase_domain() {
        let address = Address::parse("Jane.Doe+tag@EXAMPLE.Test", false).unwrap();
        assert_eq!(address.as_str(), "Jane.Doe+tag@EXAMPLE.Test");
        assert_eq!(address.local_part(), "Jane.Doe+tag");
        assert_eq!(address.domain(), "example.test");
    }

    #[test]
    fn a_unicode_domain_is_kept_as_its_a_label() {
        let address = Address::parse("jürgen@Bücher.example", true).unwrap();
        assert_eq!(address.domain(), "xn--bcher-kva.example");
        assert_eq!(Address::parse("jürgen@bücher.example", false), Err(AddressError::NeedsUtf8));
    }

    #[test]
    fn quoted_local_parts_may_hold_an_at_sign() {
        let address = Address::parse("\"a@b \\\" c\"@example.test", false).unwrap();
        assert_eq!(address.local_part(), "\"a@b \\\" c\"");
        assert_eq!(address.domain(), "example.test");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        use AddressError::{Domain, Incomplete, Literal, LocalPart, TooLong};
        let cases = [
            ("", Incomplete),
            ("user", Incomplete),
            ("@example.test", Incomplete),
            ("user@", Incomplete),
            ("user@[127.0.0.1]", Literal),
            ("user@2130706433", Domain),
            ("user@.example.test", Domain),
            ("user@example..test", Domain),
            ("user@example.test.", Domain),
            ("user@exa mple.test", Domain),
            ("user@-a.test", Domain),
            ("user@xn--\u{7f}.test", Domain),
            ("a@b@example.test", Domain),
            ("us er@example.test", LocalPart),
            (".user@example.test", LocalPart),
            ("us..er@example.test", LocalPart),
            (";sleep 66;@example.test", LocalPart),
            ("\"open@example.test", LocalPart),
            ("\"a\"b@example.test", LocalPart),
            ("a\u{0}b@example.test", LocalPart),
        ];
        for (text, expected) in cases {
            assert_eq!(Address::parse(text, false), Err(expected), "{text:?}");
        }
        let long = format!("{}@example.test", "x".repeat(256));
        assert_eq!(Address::parse(&long, false), Err(TooLong));
    }

    #[test]
    fn invisible_characters_are_no_part_of_an_address() {
        for text in ["a\u{200b}b@example.test", "a\u{a0}b@example.test", "a\u{202e}@example.test"] {
            assert_eq!(Address::parse(text, true), Err(AddressError::LocalPart), "{text:?}");
        }
    }
}
