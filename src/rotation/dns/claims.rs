//! What in DNS is the fleet's to change. A name that was never seen there with the fleet's own
//! addresses may be somebody's: of the service's web site, or of a name server. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::RecordType;
use mxfleet_cluster::{NameStage, State};

use super::sets::{Data, Set, SetName, Sets};

/// Names that are new to DNS, and the addresses that are the fleet's.
#[derive(Debug, Default)]
pub(super) struct Claims {
    new: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Claims {
    pub(super) fn of(state: &State) -> Self {
        let new =
            state.names().filter(|row| row.stage == NameStage::Planned && row.target.is_none());
        Self {
            new: new.map(|row| row.name.clone()).collect(),
            addresses: state.hosts().flat_map(|host| host.addresses.iter().copied()).collect(),
        }
    }

    /// What somebody else has at one of these sets of a new name, in words.
    pub(super) fn others(&self, sets: &[SetName], found: &Sets) -> Option<String> {
        let set = |name: &SetName| found.get(name).filter(|is| self.is_others(name, is));
        let theirs: BTreeSet<String> =
            sets.iter().filter_map(set).flat_map(|is| &is.data).map(ToString::to_string).collect();
        (!theirs.is_empty()).then(|| theirs.into_iter().collect::<Vec<_>>().join(" "))
    }

    /// A new name that is to be forgotten is so whatever others have there: that is left alone.
    pub(super) fn leave_others(&self, wanted: &Sets, found: &mut Sets) {
        let stays = |(name, shall): (&SetName, &Set)| {
            (!shall.data.is_empty()).then(|| name.mx_name().to_owned())
        };
        let stay: BTreeSet<String> = wanted.iter().filter_map(stays).collect();
        for (name, is) in found {
            if !stay.contains(name.mx_name()) && self.is_others(name, is) {
                *is = Set::default();
            }
        }
    }

    fn is_others(&self, name: &SetName, is: &Set) -> bool {
        let is_ours =
            |data: &Data| matches!(data, Data::Address(ip) if self.addresses.contains(ip));
        let says_where = [RecordType::A, RecordType::AAAA].contains(&name.kind);
        says_where && self.new.contains(&name.name) && !is.data.iter().all(is_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, kind: RecordType, addresses: &[&str]) -> (SetName, Set) {
        let data = addresses.iter().map(|text| Data::Address(text.parse().unwrap())).collect();
        (SetName { name: name.to_owned(), kind }, Set { ttl_s: 60, data })
    }

    #[test]
    fn what_a_new_name_has_from_others_is_theirs_and_what_a_known_one_has_is_ours() {
        let claims = Claims {
            new: BTreeSet::from(["mx-a.relay.test".to_owned()]),
            addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        };
        for (name, addresses, expected) in [
            ("mx-a.relay.test", &["192.0.2.9"][..], Some("192.0.2.9")),
            ("mx-a.relay.test", &["192.0.2.1"], None),
            ("mx-a.relay.test", &[], None),
            ("mx-b.relay.test", &["192.0.2.9"], None),
        ] {
            let (name, is) = set(name, RecordType::A, addresses);
            let others =
                claims.others(std::slice::from_ref(&name), &Sets::from([(name.clone(), is)]));
            assert_eq!(others.as_deref(), expected, "{addresses:?}");
        }
    }

    #[test]
    fn a_new_name_that_is_to_be_forgotten_leaves_what_others_have() {
        let name = "mx-a.relay.test";
        let claims = Claims { new: BTreeSet::from([name.to_owned()]), ..Claims::default() };
        let found = Sets::from([set(name, RecordType::A, &["192.0.2.9"])]);
        for (shall, left) in [(&[][..], 0), (&["192.0.2.1"][..], 1)] {
            let mut found = found.clone();
            let wanted = Sets::from([set(name, RecordType::A, shall)]);
            claims.leave_others(&wanted, &mut found);
            assert_eq!(found.values().map(|is| is.data.len()).sum::<usize>(), left);
        }
    }
}
