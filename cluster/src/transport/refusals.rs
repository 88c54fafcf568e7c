//! Peers that were turned away on the cluster port: counted by reason, logged once a minute.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::codec::CodecError;

/// A stranger must not fill the log.
pub(super) const LOG_EVERY: Duration = Duration::from_secs(60);

/// Why a peer was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Too many handshakes, or joins, at a time.
    Busy,
    /// The TLS handshake failed or took too long: no certificate of this fleet, in most cases.
    Handshake,
    /// It wants to speak another protocol.
    Protocol,
    /// Its certificate names no node.
    Certificate,
    /// What it sent is longer or shorter than it says.
    Length,
    /// It speaks another version of the format.
    Version,
    /// Something follows what it said.
    Trailing,
    /// What it sent is not understood otherwise.
    Malformed,
    /// It is of another fleet.
    Fleet,
    /// It says it is, or speaks to, another node than the certificates say.
    Identity,
    /// Its token is unknown, used or expired.
    Token,
    /// Its node was removed from the fleet.
    Removed,
}

impl Reason {
    const ALL: [Self; 12] = [
        Self::Busy,
        Self::Handshake,
        Self::Protocol,
        Self::Certificate,
        Self::Length,
        Self::Version,
        Self::Trailing,
        Self::Malformed,
        Self::Fleet,
        Self::Identity,
        Self::Token,
        Self::Removed,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Handshake => "handshake",
            Self::Protocol => "protocol",
            Self::Certificate => "certificate",
            Self::Length => "length",
            Self::Version => "version",
            Self::Trailing => "trailing",
            Self::Malformed => "malformed",
            Self::Fleet => "fleet",
            Self::Identity => "identity",
            Self::Token => "token",
            Self::Removed => "removed",
        }
    }
}

impl From<&CodecError> for Reason {
    fn from(error: &CodecError) -> Self {
        match error {
            CodecError::Short | CodecError::Length | CodecError::TooLarge => Self::Length,
            CodecError::Format(_) => Self::Version,
            CodecError::Trailing => Self::Trailing,
            CodecError::Magic
            | CodecError::Kind(_)
            | CodecError::Checksum
            | CodecError::Body(_) => Self::Malformed,
        }
    }
}

/// What a peer did that ends its connection.
#[derive(Debug)]
pub(super) struct Offence {
    pub(super) reason: Reason,
    pub(super) why: String,
}

impl Offence {
    pub(super) fn new(reason: Reason, why: impl Display) -> Self {
        Self { reason, why: why.to_string() }
    }
}

impl From<CodecError> for Offence {
    fn from(error: CodecError) -> Self {
        Self::new(Reason::from(&error), error)
    }
}

#[derive(Debug, Default)]
struct Log {
    last: Option<Instant>,
    /// Refusals that no line has told of.
    untold: u64,
}

/// How many were turned away, by reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
    log: Mutex<Log>,
}

impl Refusals {
    /// Count one; tell of it unless the last minute was told of one already.
    pub(super) fn note(&self, peer: impl Display, offence: &Offence) {
        self.counts[offence.reason as usize].fetch_add(1, Ordering::Relaxed);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.untold += 1;
        if log.last.is_some_and(|last| last.elapsed() < LOG_EVERY) {
            return;
        }
        (log.last, log.untold) = (Some(Instant::now()), 0);
        drop(log);
        let (reason, why) = (offence.reason.label(), &offence.why);
        tracing::warn!(%peer, reason, %why, "a peer was refused on the cluster port");
    }

    /// Once a minute: tell of those that were counted and not told.
    pub(super) fn sum_up(&self) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let more = std::mem::take(&mut log.untold);
        if more == 0 {
            return;
        }
        log.last = Some(Instant::now());
        drop(log);
        let all: Vec<String> = self
            .counts()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let all = all.join(", ");
        tracing::warn!(more, %all, "more peers were refused on the cluster port");
    }

    /// Reasons with how many were refused for them since the start, all reasons.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count =
            |(reason, count): (Reason, &AtomicU64)| (reason.label(), count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(&self.counts).map(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_counted_by_its_reason_and_a_minute_is_told_of_once() {
        let refusals = Refusals::default();
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "the place in the list is the place of its count");
            (0..=at).for_each(|_| refusals.note("x", &Offence::new(reason, "why")));
        }
        let counts: Vec<_> = refusals.counts().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=12).collect::<Vec<_>>());
        let untold = || refusals.log.lock().unwrap().untold;
        assert_eq!(untold(), 77, "of 78 the first was told");
        refusals.sum_up();
        assert_eq!(untold(), 0);
        refusals.note("x", &Offence::new(Reason::Busy, "why"));
        assert_eq!(untold(), 1);
        tokio::time::advance(LOG_EVERY).await;
        refusals.note("x", &Offence::new(Reason::Busy, "why"));
        assert_eq!(untold(), 0);
    }

    #[test]
    fn what_cannot_be_decoded_has_its_reason() {
        for (error, reason) in [
            (CodecError::TooLarge, Reason::Length),
            (CodecError::Format(9), Reason::Version),
            (CodecError::Trailing, Reason::Trailing),
            (CodecError::Checksum, Reason::Malformed),
        ] {
            assert_eq!(Offence::from(error).reason, reason);
        }
    }
}
