//! Admin calls about recipients that are refused because of too many rejections.

use std::sync::Arc;

use mxfleet_cluster::{
    Cluster, Command, Exemption, FrozenDomain, Request, State, domain_of, random_id,
};

use super::call::{
    BlacklistEntryRow, BlacklistRow, BlacklistStats, Call, ExemptRow, ExemptionRow, FrozenRow,
    Refused, RejectionRow, Terms,
};
use super::tables::changed;
use super::{domain_name, time};
use crate::blacklist::{self, Reports};
use crate::smtp::Address;
use crate::system::clock::wall_ms;

/// Answer a call about the blacklist; `None` when the call is about something else.
pub(super) async fn answer(
    cluster: &Cluster,
    reports: &Reports,
    call: &Call,
    terms: &Terms,
) -> Option<Result<serde_json::Value, Refused>> {
    Some(match call.clone() {
        Call::BlacklistShow { address } => {
            key(&address).map(|key| serde_json::json!(entry_row(&cluster.view(), key)))
        }
        Call::BlacklistList { domain, limit } => list(cluster.view(), domain, limit).await,
        Call::BlacklistExemptions { domain, limit } => {
            exemptions(&cluster.view(), domain.as_deref(), limit)
        }
        Call::BlacklistStats => stats(cluster.view(), reports.waiting()).await,
        call => {
            let command = command(&cluster.view(), call, wall_ms())?;
            match command {
                Ok(command) => {
                    let id = terms.request_id.unwrap_or_else(random_id);
                    let mut request = Request::new(id, &terms.actor, wall_ms(), command);
                    request.expected_version = terms.expected_version;
                    changed(cluster.propose(request).await)
                }
                Err(refused) => Err(refused),
            }
        }
    })
}

fn command(state: &State, call: Call, now_ms: u64) -> Option<Result<Command, Refused>> {
    Some(match call {
        Call::BlacklistPardon { address } => {
            key(&address).map(|address| Command::BlacklistPardon { address })
        }
        Call::BlacklistExempt { address, reason, until_ms } => {
            exempt(state, &address, Exemption { reason, until_ms }, now_ms)
        }
        Call::BlacklistUnexempt { address } => {
            key(&address).map(|address| Command::BlacklistExempt { address, exemption: None })
        }
        Call::BlacklistFreeze { domain, frozen } => freeze(state, &domain, frozen),
        _ => return None,
    })
}

fn exempt(
    state: &State,
    address: &str,
    exemption: Exemption,
    now_ms: u64,
) -> Result<Command, Refused> {
    let address = key(address)?;
    served(state, domain_of(&address))?;
    if exemption.until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
        return Err(Refused::invalid(
            "the time of --until is past, so nobody would be exempt; give a later one, or none \
             for ever (`blacklist unexempt` ends an exemption)",
        ));
    }
    Ok(Command::BlacklistExempt { address, exemption: Some(exemption) })
}

/// A domain that is served no more can be thawed all the same.
fn freeze(state: &State, domain: &str, frozen: bool) -> Result<Command, Refused> {
    let domain = domain_name(domain)?;
    if frozen {
        served(state, &domain)?;
    }
    Ok(Command::BlacklistFreeze { domain, frozen })
}

/// Refuse what would have no effect.
fn served(state: &State, domain: &str) -> Result<(), Refused> {
    match state.domain(domain) {
        Some(_) => Ok(()),
        None => Err(Refused::not_found(format!(
            "{domain} is no domain of a customer, so its recipients are refused anyway; \
             `mxfleet domain list` shows all there are"
        ))),
    }
}

fn key(text: &str) -> Result<String, Refused> {
    let address = Address::parse(text, true);
    address
        .map(|address| blacklist::key(&address))
        .map_err(|why| Refused::invalid(format!("{}: {why}", text.escape_debug())))
}

fn entry_row(state: &State, address: String) -> BlacklistEntryRow {
    let now_ms = wall_ms();
    let listed = state.is_blacklisted(&address, now_ms);
    let Some(entry) = state.blacklist_entry(&address, now_ms) else {
        let (until, trusted_until, rejections, exempt) = Default::default();
        return BlacklistEntryRow { address, listed, until, rejections, trusted_until, exempt };
    };
    // Times are kept for each that counted; what was said, for the newest of them.
    let silent = entry.rejections_ms.len().saturating_sub(entry.notes.len());
    let notes = std::iter::repeat_n(None, silent).chain(entry.notes.iter().map(Some));
    let node_name = |id| state.host(id).map_or_else(|| id.to_string(), |host| host.name.clone());
    let row = |(at_ms, note): (&u64, Option<&mxfleet_cluster::RejectionNote>)| RejectionRow {
        at: time(*at_ms),
        node: note.map(|note| node_name(note.node)),
        reply: note.map(|note| note.reply.clone()),
    };
    BlacklistEntryRow {
        listed,
        until: entry.listed_until_ms.filter(|_| listed).map(time),
        rejections: entry.rejections_ms.iter().zip(notes).map(row).collect(),
        trusted_until: entry.trusted_until_ms.filter(|until| now_ms < *until).map(time),
        exempt: entry.exemption.as_ref().map(exemption_row),
        address,
    }
}

fn exemption_row(exemption: &Exemption) -> ExemptionRow {
    ExemptionRow { reason: exemption.reason.clone(), until: exemption.until_ms.map(time) }
}

/// Those that are never listed, in order.
fn exemptions(
    state: &State,
    domain: Option<&str>,
    limit: usize,
) -> Result<serde_json::Value, Refused> {
    let domain = domain.map(domain_name).transpose()?;
    let of_domain =
        |address: &str| domain.as_deref().is_none_or(|domain| domain_of(address) == domain);
    let exempt = state.blacklist_exempt(wall_ms()).filter(|(address, _)| of_domain(address));
    let row = |(address, exemption): (&str, &Exemption)| ExemptRow {
        address: address.to_owned(),
        exemption: exemption_row(exemption),
    };
    Ok(serde_json::json!(exempt.take(limit).map(row).collect::<Vec<_>>()))
}

/// Looks at every address, so it runs where it may take its time.
async fn list(
    state: Arc<State>,
    domain: Option<String>,
    limit: usize,
) -> Result<serde_json::Value, Refused> {
    let domain = domain.as_deref().map(domain_name).transpose()?;
    slowly(move || {
        let of_domain =
            |address: &str| domain.as_deref().is_none_or(|domain| domain_of(address) == domain);
        let listed = state.blacklisted(wall_ms()).filter(|(address, _)| of_domain(address));
        let mut rows: Vec<_> = listed.collect();
        rows.sort_unstable();
        rows.truncate(limit);
        let row = |(address, until): (&str, u64)| BlacklistRow {
            address: address.to_owned(),
            until: time(until),
        };
        serde_json::json!(rows.into_iter().map(row).collect::<Vec<_>>())
    })
    .await
}

async fn stats(state: Arc<State>, waiting: usize) -> Result<serde_json::Value, Refused> {
    slowly(move || {
        let (now_ms, counts) = (wall_ms(), state.blacklist_counts());
        serde_json::json!(BlacklistStats {
            tracked: counts.tracked,
            listed: state.blacklisted(now_ms).count(),
            trusted: counts.trusted,
            exempt: state.blacklist_exempt(now_ms).count(),
            frozen_domains: state.blacklist_frozen(now_ms).map(frozen_row).collect(),
            waiting,
        })
    })
    .await
}

fn frozen_row(frozen: FrozenDomain<'_>) -> FrozenRow {
    FrozenRow {
        domain: frozen.domain.to_owned(),
        since: time(frozen.since_ms),
        until: frozen.until_ms.map(time),
        why: match frozen.signs {
            0 => "an operator froze it".to_owned(),
            count => format!("its server refused recipients it had taken mail for, {count} times"),
        },
    }
}

async fn slowly(
    work: impl FnOnce() -> serde_json::Value + Send + 'static,
) -> Result<serde_json::Value, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refused::unavailable(error.to_string()))
}
