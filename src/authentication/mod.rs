//! Between stages 2 and 4: does a message come from its sender's domain? SPF (RFC 7208) of MAIL
//! FROM, and DKIM (RFC 6376).
//!
//! It is asked for one purpose: whether a report about the message would reach who wrote it (stage
//! 9a). So it is asked only of messages about which the policy may want to know
//! ([`Authenticator::arrival`]), and it is never a reason to refuse one. Whatever goes wrong, or
//! takes too long, means that nothing is known.
//!
//! The text is not kept for it: [`Evidence`] holds the header and running hashes of the body.

mod evidence;
mod lookups;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RecordType;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{DkimResult, MessageAuthenticator, SpfResult};
use mxfleet_cluster::Cluster;

use crate::bounce::policy::{self, Strangers};
use crate::config::Limits;
use crate::smtp::authentication::{Finding, Signature};
use crate::smtp::{Address, Authentication, Recipient, ReversePath};
use crate::system::random::random_u64;
use crate::telemetry::metrics::METRICS;

pub use evidence::{Evidence, Sealed};
use lookups::Lookups;

/// While our name servers are silent nothing is looked at, so that not every message waits in
/// vain. They are taken to be so for this time when one of them has had no word for us.
const SILENCE: Duration = Duration::from_secs(30);
/// How long they are given for that word.
const WORD_WITHIN: Duration = Duration::from_secs(2);

/// Who handed us the message.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its address.
    pub ip: IpAddr,
    /// The name it gave in EHLO or HELO.
    pub helo: &'a str,
}

/// Checks messages. One serves the whole node.
#[derive(Clone)]
pub struct Authenticator {
    checks: MessageAuthenticator,
    cluster: Cluster,
    hostname: Arc<str>,
    limits: Arc<Limits>,
    /// Until when name servers are taken to be silent.
    silent_until: Arc<Mutex<Option<Instant>>>,
}

impl Authenticator {
    /// An authenticator that asks `resolver` and is called `hostname`.
    pub fn new(
        cluster: Cluster,
        resolver: TokioResolver,
        hostname: &str,
        limits: Arc<Limits>,
    ) -> Self {
        let checks = MessageAuthenticator(resolver);
        let silent_until = Arc::default();
        Self { checks, cluster, hostname: hostname.into(), limits, silent_until }
    }

    /// Begin to look at the text of a message that arrives, if it may matter whose it is.
    pub fn arrival(&self, sender: &ReversePath, recipients: &[Recipient]) -> Option<Evidence> {
        let sender = sender.as_ref()?;
        let view = self.cluster.view();
        let is_customer = view.domain(sender.domain()).is_some();
        let strangers = Strangers::of(view.settings());
        let matters = policy::may_matter(is_customer, strangers, recipients);
        (matters && !self.is_silent()).then(|| self.evidence(sender))
    }

    /// Begin to look at the text of a message that arrived some time ago; `None` while name
    /// servers are silent.
    pub fn later(&self, sender: &Address) -> Option<Evidence> {
        (!self.is_silent()).then(|| self.evidence(sender))
    }

    /// Begin to look at the text of a message from `sender`.
    pub fn evidence(&self, sender: &Address) -> Evidence {
        let limits = &self.limits;
        Evidence::new(
            sender.domain(),
            limits.authentication_header_octets_max,
            limits.authentication_signatures_max,
        )
    }

    /// What is known of a message whose text has ended. Takes no longer than
    /// `authentication_timeout_ms`.
    pub async fn check(
        &self,
        evidence: Evidence,
        client: Client<'_>,
        sender: &Address,
    ) -> Authentication {
        let within = Duration::from_millis(self.limits.authentication_timeout_ms);
        let lookups = Lookups::new(self.limits.authentication_lookups_max);
        let spf = tokio::time::timeout(within, self.spf(&lookups, client, sender));
        let dkim = tokio::time::timeout(within, self.dkim(&lookups, evidence));
        let (spf, dkim) = tokio::join!(spf, dkim);
        if spf.is_err() || dkim.is_err() {
            // Somebody's own name servers may be silent on purpose; only ours matter.
            tokio::spawn(self.clone().listen());
        }
        let mut spf = spf.unwrap_or(Finding::TempError);
        let mut dkim = dkim.unwrap_or_else(|_| vec![unknown(Finding::TempError)]);
        if lookups.is_exceeded() {
            // With answers missing, "no match" may have come out as a pass.
            spf = Finding::PermError;
            dkim.retain(|signature| signature.result == Finding::Pass);
        }
        count("spf", spf);
        dkim.iter().for_each(|signature| count("dkim", signature.result));
        Authentication { by: self.hostname.to_string(), spf, dkim }
    }

    /// Whether our name servers have any answer, be it to a question that nobody has asked before.
    async fn listen(self) {
        if self.is_silent() {
            return;
        }
        let question = format!("{:016x}.arpa.", random_u64());
        let answer = self.checks.resolver().lookup(question, RecordType::A);
        let is_word = match tokio::time::timeout(WORD_WITHIN, answer).await {
            Ok(Ok(_) | Err(NetError::Dns(_))) => true,
            Ok(Err(_)) | Err(_) => false,
        };
        if !is_word {
            tracing::warn!("no word from name servers; SPF and DKIM are not looked at for a while");
            *self.silence() = Some(Instant::now() + SILENCE);
        }
    }

    fn is_silent(&self) -> bool {
        self.silence().is_some_and(|until| Instant::now() < until)
    }

    fn silence(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn spf(&self, lookups: &Lookups, client: Client<'_>, sender: &Address) -> Finding {
        // As A-label, which is what is asked for.
        let from = format!("{}@{}", sender.local_part(), sender.domain());
        let (ip, helo) = (client.ip, client.helo);
        let params = SpfParameters::verify_mail_from(ip, helo, &self.hostname, &from);
        match self.checks.verify_spf(lookups.bound(params)).await.result() {
            SpfResult::Pass => Finding::Pass,
            SpfResult::Fail => Finding::Fail,
            SpfResult::SoftFail => Finding::SoftFail,
            SpfResult::Neutral => Finding::Neutral,
            SpfResult::TempError => Finding::TempError,
            SpfResult::PermError => Finding::PermError,
            SpfResult::None => Finding::None,
        }
    }

    async fn dkim(&self, lookups: &Lookups, evidence: Evidence) -> Vec<Signature> {
        let Some(sealed) = evidence.seal() else { return vec![unknown(Finding::Neutral)] };
        let Some(message) = sealed.message() else { return Vec::new() };
        let checked = self.checks.verify_dkim(lookups.bound(&message)).await;
        let found = checked.iter().map(|output| {
            let result = match output.result() {
                DkimResult::Pass => Finding::Pass,
                DkimResult::Neutral(_) => Finding::Neutral,
                DkimResult::Fail(_) => Finding::Fail,
                DkimResult::PermError(_) => Finding::PermError,
                DkimResult::TempError(_) => Finding::TempError,
                DkimResult::None => Finding::None,
            };
            let domain = output.signature().map(|signature| signature.d.to_ascii_lowercase());
            Signature { result, domain: domain.unwrap_or_default() }
        });
        // Broken signatures, of which there may be many, come first and have no domain.
        let mut found: Vec<Signature> = found.collect();
        found.sort_by_key(|signature| signature.domain.is_empty());
        found.truncate(self.limits.authentication_signatures_max);
        found
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// A signature of which nothing can be said but this.
fn unknown(result: Finding) -> Signature {
    Signature { result, domain: String::new() }
}

fn count(method: &str, finding: Finding) {
    METRICS.authentications_total.with_label_values(&[method, finding.as_str()]).inc();
}
