//! The local part of a return path of ours: which recipient of which message it is about, until
//! when it is good, and a signature. Pure.
//!
//! It is `rp-` and 33 octets in base32: 56 characters, of the 64 that every server takes. Case
//! does not matter, since some servers change it.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use mxfleet_cluster::ReturnKey;
use ring::hmac;

use crate::bounce::policy::Because;
use crate::spool::EntryId;

const PREFIX: &str = "rp-";
/// Octets of the signature that are kept: whoever guesses has 2^80 ways, and a line for each.
const SIGNATURE_OCTETS: usize = 10;
/// Octets of the recipient's mark that are kept. It is keyed, so that nobody can look for an
/// address with the same mark.
const MARK_OCTETS: usize = 5;
const SIGNED_OCTETS: usize = 18 + MARK_OCTETS;

/// What a return path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The message.
    pub id: EntryId,
    /// Which of its recipients.
    pub recipient: u16,
    /// Why its sender is not told of failures; `None` if it is told, and a record says who that
    /// is.
    pub untold: Option<Because>,
    /// Until when it is good: seconds since 1970, UTC.
    pub expires_s: u32,
    mark: [u8; MARK_OCTETS],
}

/// Why an address is no return path of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Forged {
    /// Nobody of the fleet has signed it, or with a key that is gone.
    #[error("it is not signed by us")]
    Signature,
    /// It was good once.
    #[error("it has expired")]
    Expired,
}

impl Forged {
    /// For the journal and the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "wrong_signature",
            Self::Expired => "expired",
        }
    }
}

/// Whether a local part looks like a return path of ours.
pub fn is_tag(local_part: &str) -> bool {
    local_part.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

impl Tag {
    /// A tag for the recipient whose address has this [`crate::blacklist::key`].
    pub fn new(
        key: &ReturnKey,
        id: EntryId,
        recipient: u16,
        address: &str,
        untold: Option<Because>,
        expires_s: u32,
    ) -> Self {
        let mark = mark(key, id, recipient, address);
        Self { id, recipient, untold, expires_s, mark }
    }

    /// The local part, signed.
    pub fn seal(&self, key: &ReturnKey) -> String {
        let mut octets = self.signed(key);
        let signature = hmac::sign(&signing_key(key), &octets);
        octets.extend_from_slice(&signature.as_ref()[..SIGNATURE_OCTETS]);
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&octets).to_ascii_lowercase())
    }

    /// Read a local part that one of `keys` has signed.
    pub fn open(keys: &[ReturnKey], local_part: &str) -> Result<Self, Forged> {
        let digits = local_part.get(PREFIX.len()..).filter(|_| is_tag(local_part));
        let digits = digits.ok_or(Forged::Signature)?.to_ascii_uppercase();
        let octets = BASE32_NOPAD.decode(digits.as_bytes()).map_err(|_| Forged::Signature)?;
        let (signed, signature) =
            octets.split_at_checked(SIGNED_OCTETS).ok_or(Forged::Signature)?;
        let key = keys.iter().find(|key| signed.first() == Some(&number(key)));
        let expected = hmac::sign(&signing_key(key.ok_or(Forged::Signature)?), signed);
        if !is_same(signature, &expected.as_ref()[..SIGNATURE_OCTETS]) {
            return Err(Forged::Signature);
        }
        Self::read(signed).ok_or(Forged::Signature)
    }

    /// The same, if it is good at `now_s`.
    pub fn open_at(keys: &[ReturnKey], local_part: &str, now_s: u64) -> Result<Self, Forged> {
        let tag = Self::open(keys, local_part)?;
        if now_s < u64::from(tag.expires_s) { Ok(tag) } else { Err(Forged::Expired) }
    }

    /// Whether it was made for the address with this [`crate::blacklist::key`].
    pub fn is_for(&self, keys: &[ReturnKey], address: &str) -> bool {
        keys.iter().any(|key| mark(key, self.id, self.recipient, address) == self.mark)
    }

    fn signed(&self, key: &ReturnKey) -> Vec<u8> {
        let mut octets = Vec::with_capacity(SIGNED_OCTETS + SIGNATURE_OCTETS);
        octets.push(number(key));
        octets.push(code(self.untold));
        octets.extend_from_slice(&self.id.node().to_be_bytes());
        octets.extend_from_slice(&self.id.micros().to_be_bytes());
        octets.extend_from_slice(&self.recipient.to_be_bytes());
        octets.extend_from_slice(&self.expires_s.to_be_bytes());
        octets.extend_from_slice(&self.mark);
        octets
    }

    fn read(signed: &[u8]) -> Option<Self> {
        let (_, rest) = signed.split_first()?;
        let (code, rest) = rest.split_first()?;
        let (node, rest) = rest.split_first_chunk()?;
        let (micros, rest) = rest.split_first_chunk()?;
        let (recipient, rest) = rest.split_first_chunk()?;
        let (expires_s, mark) = rest.split_first_chunk()?;
        Some(Self {
            id: EntryId::new(u64::from_be_bytes(*micros), u16::from_be_bytes(*node))?,
            recipient: u16::from_be_bytes(*recipient),
            untold: because(*code)?,
            expires_s: u32::from_be_bytes(*expires_s),
            mark: *mark.first_chunk()?,
        })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} recipient {}", self.id, self.recipient)
    }
}

/// What tells keys apart; no more than three are in use.
fn number(key: &ReturnKey) -> u8 {
    key.number.to_be_bytes()[3]
}

fn signing_key(key: &ReturnKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.secret.octets())
}

/// What binds a tag to an address without showing it.
fn mark(key: &ReturnKey, id: EntryId, recipient: u16, address: &str) -> [u8; MARK_OCTETS] {
    let text = format!("recipient {id} {recipient} {address}");
    let signature = hmac::sign(&signing_key(key), text.as_bytes());
    let mut mark = [0; MARK_OCTETS];
    mark.copy_from_slice(&signature.as_ref()[..MARK_OCTETS]);
    mark
}

/// Compared in a time that tells nothing.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// The reasons that are known at delivery, with their codes; 0 is none.
const REASONS: [Because; 5] = [
    Because::NullSender,
    Because::OwnAddress,
    Because::NotAsked,
    Because::NotACustomer,
    Because::NotAuthentic,
];

fn code(because: Option<Because>) -> u8 {
    let place = because.and_then(|because| REASONS.iter().position(|known| *known == because));
    place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0)
}

#[expect(clippy::option_option, reason = "an unknown code, or the code of no reason")]
fn because(code: u8) -> Option<Option<Because>> {
    match code.checked_sub(1) {
        None => Some(None),
        Some(place) => REASONS.get(usize::from(place)).copied().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::Secret;

    use super::*;

    fn key(number: u32) -> ReturnKey {
        let octet = number.to_be_bytes()[3];
        ReturnKey { number, since_ms: 0, secret: Secret::new([octet; 32]) }
    }

    fn tag(key: &ReturnKey) -> Tag {
        let id = EntryId::new(1_780_000_000_000_000, 513).unwrap();
        Tag::new(key, id, 999, "jane@acme.test", Some(Because::NotACustomer), 2_000_000_000)
    }

    #[test]
    fn a_tag_reads_back_in_any_case_and_fits_everywhere() {
        let keys = [key(3), key(2)];
        for (key, untold) in keys.iter().zip([None, Some(Because::NotAuthentic)]) {
            let tag = Tag { untold, ..tag(key) };
            let text = tag.seal(key);
            assert_eq!(text.len(), 56);
            assert!(is_tag(&text) && text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            assert_eq!(Tag::open(&keys, &text), Ok(tag));
            assert_eq!(Tag::open(&keys, &text.to_uppercase()), Ok(tag));
            assert_eq!(Tag::open_at(&keys, &text, 1_999_999_999), Ok(tag));
            assert_eq!(Tag::open_at(&keys, &text, 2_000_000_000), Err(Forged::Expired));
            assert!(tag.is_for(&keys, "jane@acme.test") && !tag.is_for(&keys, "john@acme.test"));
        }
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let keys = [key(1), key(2)];
        let text = tag(&keys[0]).seal(&keys[0]);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(Tag::open(&keys, &changed), Err(Forged::Signature), "{changed}");
            assert_eq!(Tag::open(&keys, &text[..at]), Err(Forged::Signature));
        }
        for other in ["", "rp-", "rp-ü", "x", &format!("{text}aa"), &text[3..]] {
            assert_eq!(Tag::open(&keys, other), Err(Forged::Signature), "{other}");
        }
        assert_eq!(Tag::open(&[key(2)], &text), Err(Forged::Signature), "the key is gone");
        let same_number = ReturnKey { number: 257, ..key(9) };
        assert_eq!(Tag::open(&[same_number], &text), Err(Forged::Signature));
    }

    #[test]
    fn every_reason_has_a_code() {
        for reason in REASONS.map(Some).into_iter().chain([None]) {
            assert_eq!(because(code(reason)), Some(reason));
        }
        assert_eq!(because(6), None);
    }
}
