//! What a name server has of MX names, and what it shall have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use data_encoding::HEXLOWER;
use hickory_proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TLSA, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use mxfleet_cluster::{NameStage, State};

use crate::rotation::records::{RecordData, mx_name_of, records, tlsa_owner};

/// The records of one name and type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetName {
    /// The MX name, or what is below it.
    pub(super) name: String,
    pub(super) kind: RecordType,
}

impl SetName {
    /// The MX name that its TLSA records, too, belong to.
    pub(super) fn mx_name(&self) -> &str {
        mx_name_of(&self.name)
    }
}

/// What a set holds; empty when there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Set {
    pub(super) ttl_s: u32,
    pub(super) data: BTreeSet<Data>,
}

/// The data of a record, in an order of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Data {
    Address(IpAddr),
    /// TLSA: usage, selector, matching type and data; ours is [`Data::key`].
    Tlsa(u8, u8, u8, Vec<u8>),
    /// TXT with this one string.
    Text(String),
    /// CNAME, in the place of any other.
    Alias(String),
    /// Something we never publish, as text.
    Other(String),
}

pub(super) type Sets = BTreeMap<SetName, Set>;

/// Types an MX name has records of.
const KINDS: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

impl Data {
    /// TLSA 3 1 1 with this hash (RFC 7671 section 5.1).
    pub(super) fn key(hash: [u8; 32]) -> Self {
        let (usage, selector, matching) = (CertUsage::DaneEe, Selector::Spki, Matching::Sha256);
        Self::Tlsa(usage.into(), selector.into(), matching.into(), hash.to_vec())
    }

    pub(super) fn of(data: &RData) -> Self {
        match data {
            RData::A(A(ip)) => Self::Address((*ip).into()),
            RData::AAAA(AAAA(ip)) => Self::Address((*ip).into()),
            RData::TLSA(TLSA { cert_usage, selector, matching, cert_data, .. }) => Self::Tlsa(
                (*cert_usage).into(),
                (*selector).into(),
                (*matching).into(),
                cert_data.clone(),
            ),
            RData::TXT(text) => {
                let text = text.txt_data.concat();
                Self::Text(String::from_utf8_lossy(&text).into_owned())
            }
            RData::CNAME(CNAME(name)) => Self::Alias(name.to_ascii()),
            other => Self::Other(other.to_string()),
        }
    }

    /// As it is sent; what we never publish is not.
    pub(super) fn to_rdata(&self) -> Option<RData> {
        match self {
            Self::Address(IpAddr::V4(ip)) => Some(RData::A(A(*ip))),
            Self::Address(IpAddr::V6(ip)) => Some(RData::AAAA(AAAA(*ip))),
            Self::Tlsa(usage, selector, matching, data) => Some(RData::TLSA(TLSA::new(
                (*usage).into(),
                (*selector).into(),
                (*matching).into(),
                data.clone(),
            ))),
            Self::Text(text) => Some(RData::TXT(TXT::new(vec![text.clone()]))),
            Self::Alias(name) => Name::from_ascii(name).ok().map(|name| RData::CNAME(CNAME(name))),
            Self::Other(_) => None,
        }
    }
}

impl std::fmt::Display for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Tlsa(usage, selector, matching, data) => {
                write!(f, "{usage} {selector} {matching} {}", HEXLOWER.encode(data))
            }
            Self::Text(text) | Self::Other(text) => text.fmt(f),
            Self::Alias(name) => write!(f, "an alias of {name}"),
        }
    }
}

/// What name servers shall have at `now_ms` of every name that is theirs to know, also of those
/// they shall forget.
pub(super) fn wanted(state: &State, now_ms: u64) -> Sets {
    let mut sets = Sets::new();
    // Where they are left alone, somebody else may publish them.
    let with_keys = state.settings().get("rotation.tlsa") != Some("ignore");
    for row in state.names() {
        let over = matches!(row.stage, NameStage::Removed { .. });
        let known = row.target.is_some() || row.is_moving(now_ms);
        if !over && known && !state.is_left_alone(row, now_ms) {
            for kind in KINDS {
                sets.insert(SetName { name: row.name.clone(), kind }, Set::default());
            }
            if with_keys {
                let name = tlsa_owner(&row.name);
                sets.insert(SetName { name, kind: RecordType::TLSA }, Set::default());
            }
        }
    }
    for record in records(state, now_ms) {
        let (kind, data) = match record.data {
            RecordData::Address(ip @ IpAddr::V4(_)) => (RecordType::A, Data::Address(ip)),
            RecordData::Address(ip @ IpAddr::V6(_)) => (RecordType::AAAA, Data::Address(ip)),
            RecordData::Key(hash) => (RecordType::TLSA, Data::key(hash)),
        };
        let set = sets.entry(SetName { name: record.name, kind }).or_default();
        set.ttl_s = record.ttl_s;
        set.data.insert(data);
    }
    sets
}

/// Sets of those found that are not as wanted, with words about each.
pub(super) fn differences(wanted: &Sets, found: &Sets) -> Vec<(SetName, String)> {
    let mut differences = Vec::new();
    for (name, shall) in wanted {
        let Some(is) = found.get(name) else { continue };
        let same_ttl = shall.data.is_empty() || shall.ttl_s == is.ttl_s;
        if shall.data == is.data && same_ttl {
            continue;
        }
        let words =
            format!("{} {} is {}, shall be {}", name.name, name.kind, listed(is), listed(shall));
        differences.push((name.clone(), words));
    }
    differences
}

fn listed(set: &Set) -> String {
    if set.data.is_empty() {
        return "nothing".to_owned();
    }
    let data: Vec<String> = set.data.iter().map(ToString::to_string).collect();
    format!("{} for {} s", data.join(" "), set.ttl_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ttl_s: u32, addresses: &[&str]) -> Set {
        let data = addresses.iter().map(|text| Data::Address(text.parse().unwrap())).collect();
        Set { ttl_s, data }
    }

    #[test]
    fn what_is_sent_is_recognised_when_it_is_read() {
        for data in [
            Data::Address("192.0.2.1".parse().unwrap()),
            Data::Address("2001:db8::1".parse().unwrap()),
            Data::key([7; 32]),
            Data::Tlsa(2, 0, 1, vec![9; 32]), // somebody else's, to be known again
            Data::Text("token".to_owned()),
            Data::Alias("other.relay.test.".to_owned()),
        ] {
            assert_eq!(Data::of(&data.to_rdata().unwrap()), data);
        }
    }

    #[test]
    fn a_set_differs_by_its_data_or_its_time_to_live() {
        let name = || SetName { name: "mx-a.relay.test".to_owned(), kind: RecordType::A };
        let sets = |set: Set| Sets::from([(name(), set)]);
        let differ = |a: Set, b: Set| differences(&sets(a), &sets(b)).len();
        assert_eq!(differ(set(60, &["192.0.2.1"]), set(60, &["192.0.2.1"])), 0);
        assert_eq!(differ(set(60, &["192.0.2.1"]), set(30, &["192.0.2.1"])), 1);
        assert_eq!(differ(set(60, &["192.0.2.1"]), set(60, &["192.0.2.2"])), 1);
        assert_eq!(differ(set(0, &[]), set(60, &[])), 0);
        let nothing = sets(Set::default());
        let words = differences(&sets(set(60, &["192.0.2.1"])), &nothing).remove(0).1;
        assert_eq!(words, "mx-a.relay.test A is nothing, shall be 192.0.2.1 for 60 s");
    }
}
