//! What authorities say of keys, for certificates that wait for senders to know theirs. Pure.

use std::collections::BTreeSet;

use hickory_proto::rr::RecordType;
use mxfleet_cluster::{CertificateCommand, State};

use super::sets::{Data, Set, SetName, Sets};
use crate::rotation::records::tlsa_owner;

/// Sets that tell what the fleet does not know yet.
pub(super) fn watched(state: &State, now_ms: u64) -> BTreeSet<SetName> {
    let awaits =
        |name: &str| state.waiting_certificates().any(|next| next.certificate.covers(name));
    let waiting = state.names_with_keys(now_ms).filter(|row| awaits(&row.name));
    waiting.chain(state.names_left_with_keys()).map(|row| set_of(&row.name)).collect()
}

/// What is news in what each authority said.
pub(super) fn news(state: &State, said: &[Sets], now_ms: u64) -> Vec<CertificateCommand> {
    let all_say = |name: &str, good: &dyn Fn(&Set) -> bool| {
        let set = set_of(name);
        said.iter().all(|sets| sets.get(&set).is_some_and(good))
    };
    let one_says = |name: &str, bad: &dyn Fn(&Set) -> bool| {
        let set = set_of(name);
        said.iter().any(|sets| sets.get(&set).is_some_and(bad))
    };
    let mut news = Vec::new();
    for next in state.waiting_certificates() {
        let certificate = &next.certificate;
        let Some(name) = certificate.names.first() else { continue };
        let key = Data::key(certificate.key_hash);
        let knows = |set: &Set| set.data.is_empty() || set.data.contains(&key);
        let mut names = state.names_with_keys(now_ms).filter(|row| certificate.covers(&row.name));
        let is_in_dns = match next.from_ms {
            None => names.all(|row| all_say(&row.name, &knows)),
            Some(_) => !names.any(|row| one_says(&row.name, &|set| !knows(set))),
        };
        if is_in_dns != next.from_ms.is_some() {
            let (name, key_hash) = (name.clone(), certificate.key_hash);
            news.push(CertificateCommand::KeyInDns { name, key_hash, is_in_dns });
        }
    }
    let left = state.names_left_with_keys();
    let gone = left.filter(|row| all_say(&row.name, &|set| set.data.is_empty()));
    let names: Vec<String> = gone.map(|row| row.name.clone()).collect();
    if !names.is_empty() {
        news.push(CertificateCommand::KeysOutOfDns { names });
    }
    news
}

fn set_of(name: &str) -> SetName {
    SetName { name: tlsa_owner(name), kind: RecordType::TLSA }
}
