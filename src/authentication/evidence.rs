//! What is kept of a message while it streams by, so that its DKIM signatures can be checked at
//! its end: the header, and running hashes of the body. Pure, and the same however the text is cut.

use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::{Algorithm, HashAlgorithm, HashContext as _, HashImpl, Sha256};
use mail_auth::dkim::Canonicalization;
use mail_auth::dkim::canonicalize::BodyHasher;

use crate::smtp::authentication::covers;
use crate::smtp::dots::Unstuffer;

type Sha256Context = <Sha256 as HashImpl>::Context;

/// What was seen of one message.
pub struct Evidence {
    sender_domain: String,
    header_octets_max: usize,
    signatures_max: usize,
    dots: Unstuffer,
    header: Vec<u8>,
    stage: Stage,
}

enum Stage {
    /// The end of the header has not come yet.
    Header,
    /// The header is complete; these are the body's hashes that its signatures need.
    Body(Vec<BodyHash>),
    /// The header is too long, or odd: no signature counts.
    Unfit,
}

struct BodyHash {
    form: Canonicalization,
    hasher: BodyHasher<Sha256Context>,
}

/// A message whose signatures can be checked: its header, and its body's hashes.
pub struct Sealed {
    header: Vec<u8>,
    body_hashes: Vec<(Canonicalization, Vec<u8>)>,
    sender_domain: String,
    signatures_max: usize,
}

impl Evidence {
    /// Nothing seen yet of a message from `sender_domain`, whose own signatures come first when
    /// there are more than `signatures_max`.
    pub fn new(sender_domain: &str, header_octets_max: usize, signatures_max: usize) -> Self {
        Self {
            sender_domain: sender_domain.to_owned(),
            header_octets_max,
            signatures_max,
            dots: Unstuffer::default(),
            header: Vec::new(),
            stage: Stage::Header,
        }
    }

    /// The next piece of the text, as it is on the wire.
    pub fn see(&mut self, mut piece: &[u8]) {
        while let Some(text) = self.dots.next(&mut piece) {
            match &mut self.stage {
                Stage::Header => self.header(text),
                Stage::Body(hashes) => hash(hashes, text),
                Stage::Unfit => return,
            }
        }
    }

    /// The text has ended. `None` if its signatures cannot be checked.
    pub fn seal(mut self) -> Option<Sealed> {
        if matches!(self.stage, Stage::Header) {
            // A message without a body may lack the empty line as well.
            self.header(b"\r\n");
        }
        let Stage::Body(hashes) = self.stage else { return None };
        let finish = |hash: BodyHash| {
            let (context, _) = hash.hasher.finish();
            (hash.form, context.complete().as_ref().to_vec())
        };
        Some(Sealed {
            header: self.header,
            body_hashes: hashes.into_iter().map(finish).collect(),
            sender_domain: self.sender_domain,
            signatures_max: self.signatures_max,
        })
    }

    fn header(&mut self, text: &[u8]) {
        // The end may lie across two pieces.
        let from = self.header.len().saturating_sub(3);
        let room = self.header_octets_max.saturating_sub(self.header.len());
        let (now, later) = text.split_at(text.len().min(room));
        self.header.extend_from_slice(now);
        let end = if self.header.starts_with(b"\r\n") {
            Some(2)
        } else {
            memchr::memmem::find(&self.header[from..], b"\r\n\r\n").map(|at| from + at + 4)
        };
        let hashes = match end {
            None if later.is_empty() => return,
            None => None,
            Some(end) => {
                let body = self.header.split_off(end);
                self.hashes().map(|mut hashes| {
                    hash(&mut hashes, &body);
                    hash(&mut hashes, later);
                    hashes
                })
            }
        };
        self.stage = hashes.map_or(Stage::Unfit, Stage::Body);
    }

    /// The hashes that the header's signatures need. `None` if there are lines in it that are no
    /// fields, so that others may see its end elsewhere than we do.
    fn hashes(&self) -> Option<Vec<BodyHash>> {
        let mut hashes: Vec<BodyHash> = Vec::new();
        if self.header == b"\r\n" {
            return Some(hashes);
        }
        let message = parse(&self.header, &self.sender_domain, self.signatures_max)?;
        for signature in &message.dkim_headers {
            let form = signature.header.cb;
            if !hashes.iter().any(|hash| hash.form == form) {
                let hasher = BodyHasher::new(Sha256::hasher(), form, 0);
                hashes.push(BodyHash { form, hasher });
            }
        }
        Some(hashes)
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("sender_domain", &self.sender_domain).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence")
            .field("sender_domain", &self.sender_domain)
            .finish_non_exhaustive()
    }
}

impl Sealed {
    /// The message as its signatures are checked; `None` if it has no header.
    pub fn message(&self) -> Option<AuthenticatedMessage<'_>> {
        let mut message = parse(&self.header, &self.sender_domain, self.signatures_max)?;
        let hashes = self.body_hashes.iter();
        // A signature that covers only a part of the body (`l=`) is none for us.
        message.body_hashes =
            hashes.map(|(form, hash)| (*form, HashAlgorithm::Sha256, 0, hash.clone())).collect();
        Some(message)
    }
}

fn hash(hashes: &mut [BodyHash], text: &[u8]) {
    for hash in hashes {
        hash.hasher.write(text);
    }
}

/// The header with the signatures that will be looked at. Each of them costs one question to name
/// servers at most: nothing of RFC 6541 (third parties) or RFC 6651 (reports) is followed.
fn parse<'a>(
    header: &'a [u8],
    sender_domain: &str,
    signatures_max: usize,
) -> Option<AuthenticatedMessage<'a>> {
    let mut message = AuthenticatedMessage::parse(header)?;
    if message.body_offset() != header.len() {
        return None;
    }
    // RFC 8301: signatures with SHA-1 are not to be considered.
    message.dkim_headers.retain(|signature| signature.header.a != Algorithm::RsaSha1);
    message
        .dkim_headers
        .sort_by_key(|signature| !covers(&signature.header.d.to_ascii_lowercase(), sender_domain));
    message.dkim_headers.truncate(signatures_max);
    for signature in &mut message.dkim_headers {
        signature.header.atps = None;
        signature.header.r = false;
    }
    Some(message)
}
