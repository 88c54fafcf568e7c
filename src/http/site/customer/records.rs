//! What is still to be changed in a domain's MX records. Pure.

/// Records that are named at most.
const RECORDS_MAX: usize = 20;

/// Lines as a zone file has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Changes {
    /// What is to be added.
    pub(super) add: Vec<String>,
    /// What is to be taken away.
    pub(super) remove: Vec<String>,
}

impl Changes {
    /// From what a domain has now to what it should have. Preferences are the customer's own
    /// affair: each name stands for itself.
    pub(super) fn between(domain: &str, now: &[(u16, String)], wanted: &[(u16, String)]) -> Self {
        let has = |records: &[(u16, String)], name: &str| records.iter().any(|(_, n)| n == name);
        let line = |(preference, name): &(u16, String)| {
            format!("{domain}. IN MX {preference} {}", absolute(name))
        };
        let missing = wanted.iter().filter(|(_, name)| !has(now, name));
        let extra = now.iter().filter(|(_, name)| !has(wanted, name));
        Self {
            add: missing.take(RECORDS_MAX).map(line).collect(),
            remove: extra.take(RECORDS_MAX).map(line).collect(),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// The null MX (RFC 7505) is the root.
fn absolute(name: &str) -> String {
    format!("{}.", name.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(records: &[(u16, &str)]) -> Vec<(u16, String)> {
        records.iter().map(|&(preference, name)| (preference, name.to_owned())).collect()
    }

    #[test]
    fn each_line_can_be_copied() {
        let wanted = records(&[(10, "mx-c.relay.test"), (20, "mx-b.relay.test")]);
        let now = records(&[(5, "mx-b.relay.test"), (10, "mx-a.relay.test")]);
        let changes = Changes::between("acme.test", &now, &wanted);
        assert_eq!(changes.add, ["acme.test. IN MX 10 mx-c.relay.test."]);
        assert_eq!(changes.remove, ["acme.test. IN MX 10 mx-a.relay.test."]);
        assert!(Changes::between("acme.test", &wanted, &wanted).is_none());
        let null = Changes::between("acme.test", &records(&[(0, "")]), &wanted);
        assert_eq!((null.remove, null.add.len()), (vec!["acme.test. IN MX 0 .".to_owned()], 2));
        let many: Vec<_> = (0..90).map(|n| (n, format!("mx{n}.other.test"))).collect();
        let changes = Changes::between("acme.test", &many, &wanted);
        assert_eq!((changes.add.len(), changes.remove.len()), (2, RECORDS_MAX));
    }
}
