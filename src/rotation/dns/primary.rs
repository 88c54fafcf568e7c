//! The primary is brought to what shall be: all names at once, and where it does not take that,
//! name by name, so that one name's trouble is no other's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use hickory_proto::rr::TSigner;

use super::claims::Claims;
use super::exchange::{ExchangeError, read_sets, send_update};
use super::sets::{SetName, Sets, differences};
use super::update::{compose, compose_new};
use crate::system::clock::wall_ms;
use crate::telemetry::metrics::METRICS;

/// Names in one update: a message has at most 64 KiB.
const NAMES_MAX: usize = 60;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// It said something else before.
    pub(super) is_changed: bool,
    /// What is in the way, of which MX name.
    pub(super) faults: BTreeMap<String, ExchangeError>,
}

/// Where changes are sent.
pub(super) struct Primary<'a> {
    pub(super) server: SocketAddr,
    pub(super) zone: &'a str,
    pub(super) key: Option<&'a TSigner>,
    pub(super) claims: &'a Claims,
}

impl Primary<'_> {
    /// Bring it to what shall be. What is in the way of one name stops no other.
    pub(super) async fn bring(&self, wanted: &Sets) -> Result<Brought, ExchangeError> {
        let mut found = read_sets(self.server, wanted.keys()).await?;
        self.claims.leave_others(wanted, &mut found.sets);
        let untold: BTreeSet<&str> = found.untold.keys().map(SetName::mx_name).collect();
        let mut changes = differences(wanted, &found.sets);
        changes.retain(|(set, _)| !untold.contains(set.mx_name()));
        let mut sets: Vec<SetName> = changes.iter().map(|(set, _)| set.clone()).collect();
        sets.sort_by(|a, b| a.mx_name().cmp(b.mx_name()));
        let names = sets.chunk_by(|a, b| a.mx_name() == b.mx_name());
        let (taken, names): (Vec<_>, Vec<_>) =
            names.partition(|sets| self.claims.others(sets, &found.sets).is_some());
        let words: BTreeMap<SetName, String> = changes.into_iter().collect();
        let say = |set: &SetName| {
            let what = words.get(set).map_or("", String::as_str);
            tracing::info!(server = %self.server, "DNS is brought up to date: {what}");
        };
        let mut faults = BTreeMap::new();
        let name_of = |sets: &[SetName]| sets.first().map_or("", SetName::mx_name).to_owned();
        for sets in &taken {
            match self.introduce(sets, &found.sets, wanted).await {
                Ok(()) => sets.iter().for_each(say),
                Err(error) => drop(faults.insert(name_of(sets), error)),
            }
        }
        for batch in names.chunks(NAMES_MAX) {
            let sent = match batch {
                [_] => None,
                _ => Some(self.send(&batch.concat(), &found.sets, wanted).await),
            };
            match sent {
                Some(Ok(())) => batch.concat().iter().for_each(say),
                Some(Err(error)) if !error.may_be_one_names() => return Err(error),
                Some(Err(_)) | None => {
                    for sets in batch {
                        match self.replace(sets, &found.sets, wanted).await {
                            Ok(()) => sets.iter().for_each(say),
                            Err(error) => drop(faults.insert(name_of(sets), error)),
                        }
                    }
                }
            }
        }
        if !sets.is_empty() {
            METRICS.dns_updates_total.inc();
        }
        for (set, error) in found.untold {
            faults.entry(set.mx_name().to_owned()).or_insert(error);
        }
        Ok(Brought { is_changed: !sets.is_empty(), faults })
    }

    /// Add a new name where others seem to have records. If it is a wildcard of the zone that
    /// answers, it stands in nobody's way.
    async fn introduce(
        &self,
        sets: &[SetName],
        found: &Sets,
        wanted: &Sets,
    ) -> Result<(), ExchangeError> {
        let update = compose_new(self.zone, sets, found, wanted)?;
        match send_update(self.server, update, self.key, wall_ms() / 1000).await {
            Err(ExchangeError::Changed(server)) => {
                let name = sets.first().map_or("", SetName::mx_name).to_owned();
                let what = self.claims.others(sets, found).unwrap_or_default();
                Err(ExchangeError::Taken { server, name, what })
            }
            sent => sent,
        }
    }

    /// Replace the sets of one name. What a wildcard of the zone answers looks like the name's own,
    /// but there is nothing to be replaced.
    async fn replace(
        &self,
        sets: &[SetName],
        found: &Sets,
        wanted: &Sets,
    ) -> Result<(), ExchangeError> {
        match self.send(sets, found, wanted).await {
            Err(ExchangeError::Changed(_)) => {}
            sent => return sent,
        }
        let now = read_sets(self.server, sets.iter()).await?;
        if sets.iter().any(|set| now.sets.get(set) != found.get(set)) {
            return Err(ExchangeError::Changed(self.server));
        }
        match self.send(sets, &Sets::new(), wanted).await {
            Err(ExchangeError::Changed(server)) => {
                let name = sets.first().map_or("", SetName::mx_name);
                let why = format!("it has other records of {name} than it answers");
                Err(ExchangeError::Refused { server, why })
            }
            sent => sent,
        }
    }

    async fn send(
        &self,
        sets: &[SetName],
        found: &Sets,
        wanted: &Sets,
    ) -> Result<(), ExchangeError> {
        let update = compose(self.zone, sets, found, wanted)?;
        send_update(self.server, update, self.key, wall_ms() / 1000).await
    }
}
