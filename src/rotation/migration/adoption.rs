//! What customers' MX records lead to: names that stay, or such that end. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mxfleet_cluster::{Migration, MxName, NameStage, State, Survey};

/// Names of ours that MX records may have, and where these are.
#[derive(Debug)]
pub(super) struct Names {
    retire: Vec<String>,
    introduce: Vec<String>,
    ours: Vec<String>,
    /// Addresses of hosts that have names which end, and no others.
    ends_at: BTreeSet<IpAddr>,
    /// Addresses of hosts that have names which stay.
    stays_at: BTreeSet<IpAddr>,
}

impl Names {
    pub(super) fn new(state: &State, migration: &Migration) -> Self {
        let is_ours = |row: &&MxName| !matches!(row.stage, NameStage::Removed { .. });
        let ends = |row: &&MxName| migration.retire.contains(&row.name);
        let (ending, staying): (Vec<&MxName>, Vec<&MxName>) =
            state.names().filter(is_ours).partition(ends);
        let at = |names: &[&MxName]| -> BTreeSet<IpAddr> {
            let hosts: BTreeSet<u64> = names.iter().filter_map(|row| row.aim()).collect();
            let hosts = hosts.into_iter().filter_map(|host| state.host(host));
            hosts.flat_map(|host| host.addresses.iter().copied()).collect()
        };
        let stays_at = at(&staying);
        let ends_at = at(&ending).difference(&stays_at).copied().collect();
        let ours = ending.iter().chain(&staying).map(|row| row.name.clone()).collect();
        let (retire, introduce) = (migration.retire.clone(), migration.introduce.clone());
        Self { retire, introduce, ours, ends_at, stays_at }
    }

    /// Whether a name is one of ours.
    pub(super) fn has(&self, host: &str) -> bool {
        self.ours.iter().any(|name| name == host)
    }

    /// By the hosts that MX records have, the names these are aliases of, and their addresses.
    pub(super) fn sort(&self, hosts: &[String], addresses: &[IpAddr]) -> Records {
        let has = |names: &[String]| names.iter().any(|name| hosts.contains(name));
        let at = |known: &BTreeSet<IpAddr>| addresses.iter().any(|address| known.contains(address));
        let whose = match () {
            () if has(&self.retire) || at(&self.ends_at) => Whose::Old,
            () if has(&self.ours) || at(&self.stays_at) => Whose::Ours,
            () => Whose::Others,
        };
        let adopted = self.introduce.iter().filter(|name| hosts.contains(name));
        Records { whose, adopted: adopted.cloned().collect() }
    }
}

/// What a domain's MX records say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) whose: Whose,
    /// Names in them that begin.
    pub(super) adopted: Vec<String>,
}

/// Whose names a domain's MX records lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// One that ends.
    Old,
    /// Of ours, only such that stay.
    Ours,
    /// None of ours, or there are no records.
    Others,
}

/// One domain with an old name is enough; one without an answer leaves it open; and one that has
/// moved tells from a customer that has none of our names.
pub(super) fn judge(answers: &[Option<Records>], at_ms: u64) -> Survey {
    let any = |whose| answers.iter().flatten().any(|records| records.whose == whose);
    match () {
        () if any(Whose::Old) => Survey::Old { at_ms },
        () if answers.contains(&None) => Survey::Unknown,
        () if any(Whose::Ours) => Survey::Moved { at_ms },
        () => Survey::Elsewhere { at_ms },
    }
}

/// Names that begin, and that one of the domains has.
pub(super) fn adopted(answers: &[Option<Records>]) -> Vec<String> {
    let names = answers.iter().flatten().flat_map(|records| records.adopted.iter().cloned());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_domain_with_an_old_name_is_enough_and_one_without_an_answer_leaves_it_open() {
        let at_ms = 5;
        let records = |whose| Some(Records { whose, adopted: Vec::new() });
        let (old, ours, others) =
            (records(Whose::Old), records(Whose::Ours), records(Whose::Others));
        for (answers, expected) in [
            (vec![], Survey::Elsewhere { at_ms }),
            (vec![others.clone(), others.clone()], Survey::Elsewhere { at_ms }),
            (vec![ours.clone(), others.clone()], Survey::Moved { at_ms }),
            (vec![ours.clone(), None], Survey::Unknown),
            (vec![others, None], Survey::Unknown),
            (vec![None, old, ours], Survey::Old { at_ms }),
        ] {
            assert_eq!(judge(&answers, at_ms), expected, "{answers:?}");
        }
    }

    #[test]
    fn records_are_told_apart_by_whose_names_and_hosts_they_lead_to() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let known = Names {
            retire: names(&["mx1.test"]),
            introduce: names(&["mx2.test"]),
            ours: names(&["mx1.test", "mx2.test", "mx3.test"]),
            ends_at: [address("192.0.2.1")].into(),
            stays_at: [address("192.0.2.2")].into(),
        };
        for (hosts, addresses, whose, adopted) in [
            (&["mx1.test", "mx2.test"][..], &[][..], Whose::Old, &["mx2.test"][..]),
            (&["mx2.test", "mail.other.example"], &[], Whose::Ours, &["mx2.test"]),
            (&["mx3.test"], &[], Whose::Ours, &[]),
            (&["mail.other.example"], &["198.51.100.1"], Whose::Others, &[]),
            (&["mx3.test", "mail.other.example"], &["192.0.2.1"], Whose::Old, &[]),
            (&["mail.other.example"], &["192.0.2.2"], Whose::Ours, &[]),
            (&[], &["192.0.2.1"], Whose::Old, &[]), // mail goes by the domain's address
            (&[], &[], Whose::Others, &[]),
        ] {
            let found: Vec<IpAddr> = addresses.iter().map(|text| address(text)).collect();
            let expected = Records { whose, adopted: names(adopted) };
            assert_eq!(known.sort(&names(hosts), &found), expected, "{hosts:?} {addresses:?}");
        }
    }

    #[test]
    fn a_name_that_one_domain_has_is_adopted_even_while_another_keeps_an_old_one() {
        let records = |whose, has: &[&str]| Some(Records { whose, adopted: names(has) });
        let answers = [records(Whose::Old, &[]), None, records(Whose::Ours, &["mx2.test"])];
        assert_eq!(adopted(&answers), ["mx2.test"]);
    }
}
