//! The secret in a link.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

use crate::system::random;

/// 160 bits: nobody guesses one, however long they try.
const OCTETS: usize = 20;

/// What makes a link its customer's. Who holds it may see, so it is shown on purpose only.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkSecret([u8; OCTETS]);

/// A text is no secret of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is not the secret of a link")]
pub struct NoSecret;

impl LinkSecret {
    /// A new one; `None` if the system gives no random octets.
    pub fn new() -> Option<Self> {
        random::secret()?.first_chunk().copied().map(Self)
    }

    /// What the fleet knows it by: SHA-256.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        hash
    }

    /// The path of the page that it leads to.
    pub fn path(&self) -> String {
        format!("/customer/{}", HEXLOWER.encode(&self.0))
    }
}

impl FromStr for LinkSecret {
    type Err = NoSecret;

    fn from_str(text: &str) -> Result<Self, NoSecret> {
        let octets = HEXLOWER.decode(text.as_bytes()).map_err(|_| NoSecret)?;
        octets.try_into().map(Self).map_err(|_| NoSecret)
    }
}

impl fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_from_its_path_and_does_not_show_itself() {
        let (one, other) = (LinkSecret::new().unwrap(), LinkSecret::new().unwrap());
        assert_ne!(one, other);
        assert_ne!(one.hash(), other.hash());
        let path = one.path();
        let text = path.strip_prefix("/customer/").unwrap();
        assert_eq!((text.len(), text.parse()), (40, Ok(one.clone())));
        assert_eq!(format!("{one:?}"), "LinkSecret(..)");
        let longer = format!("{text}00");
        for bad in ["", "x", &text[2..], &longer, &text.to_uppercase().replace('0', "A"), "é"] {
            assert_eq!(bad.parse::<LinkSecret>(), Err(NoSecret), "{bad}");
        }
    }
}
