//! A bound on the questions that one message may cause. SPF alone lets a stranger's record ask for
//! more than a hundred.

use std::borrow::Borrow;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mail_auth::{DnsError, DnssecStatus, Error, MX, Parameters, RecordSet, ResolverCache, Txt};

/// Counts questions. The checks ask it before each one, as they would ask a cache; the resolver
/// behind them has the cache.
#[derive(Debug)]
pub(super) struct Lookups {
    asked: AtomicUsize,
    most: usize,
}

/// The checks' parameters with this bound in them.
pub(super) type Bounded<'a, P> = Parameters<'a, P, Lookups, Lookups, Lookups, Lookups, Lookups>;

impl Lookups {
    pub(super) fn new(most: usize) -> Self {
        Self { asked: AtomicUsize::new(0), most }
    }

    /// More was asked than may be. What came out then is worth nothing.
    pub(super) fn is_exceeded(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > self.most
    }

    pub(super) fn bound<P>(&self, params: P) -> Bounded<'_, P> {
        Parameters {
            params,
            cache_txt: Some(self),
            cache_mx: Some(self),
            cache_ptr: Some(self),
            cache_ipv4: Some(self),
            cache_ipv6: Some(self),
        }
    }
}

impl<K, V: Empty> ResolverCache<K, V> for Lookups {
    fn get<Q>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        (before >= self.most).then(V::empty)
    }

    fn remove<Q>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: K, _: V, _: Instant) {}
}

/// What a check is given instead of an answer, so that it ends soon.
pub(super) trait Empty {
    fn empty() -> Self;
}

impl Empty for Txt {
    fn empty() -> Self {
        Self::Error(Error::Dns(DnsError::Resolver("too many questions".to_owned())))
    }
}

impl Empty for RecordSet<MX> {
    fn empty() -> Self {
        nothing()
    }
}

impl Empty for RecordSet<Ipv4Addr> {
    fn empty() -> Self {
        nothing()
    }
}

impl Empty for RecordSet<Ipv6Addr> {
    fn empty() -> Self {
        nothing()
    }
}

impl Empty for RecordSet<Box<str>> {
    fn empty() -> Self {
        nothing()
    }
}

fn nothing<T>() -> RecordSet<T> {
    RecordSet { rrset: std::sync::Arc::new([]), dnssec_status: DnssecStatus::Indeterminate }
}
