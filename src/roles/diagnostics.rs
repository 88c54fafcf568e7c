//! What operators are told about a message beside it: who wrote it, whether that is known, and how
//! its customer is. Pure.

use std::fmt::Write as _;

use mxfleet_cluster::{Customer, CustomerStatus, Domain, MigrationStep, Survey, Told};

use crate::bounce::field;
use crate::smtp::{Address, Authentication};
use crate::system::clock::timestamp;

/// A contact of more customers than these is shown these.
pub const CUSTOMERS_MAX: usize = 3;
/// Domains of one customer that are shown; the rest is counted.
pub const DOMAINS_MAX: usize = 50;
/// Failures of one customer's mail that are shown.
pub const FAILURES_MAX: usize = 20;
/// All of it together; the rest is left out.
const TEXT_OCTETS_MAX: usize = 48 * 1024;

/// How a message came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The host that took it.
    pub host: &'a str,
    /// Its queue id.
    pub id: &'a str,
    /// When: the RFC 5322 form.
    pub date: &'a str,
    /// Who handed it over: name and address.
    pub client: &'a str,
    /// MAIL FROM; empty is the null reverse-path.
    pub mail_from: &'a str,
    /// Whom its From field names.
    pub author: Option<&'a Address>,
    /// What SPF and DKIM say, if anybody could look.
    pub found: Option<&'a Authentication>,
    /// Whether they say that the author's domain sent it.
    pub is_authors: bool,
}

/// How a customer is.
#[derive(Debug, Clone)]
pub struct CustomerFacts<'a> {
    /// Its row.
    pub customer: &'a Customer,
    /// Its MX names.
    pub names: &'a [String],
    /// Its place in the newest migration, and that one's number.
    pub migration: Option<(u64, &'a MigrationStep)>,
    /// The first of its domains.
    pub domains: Vec<DomainFacts<'a>>,
    /// All of its domains.
    pub domains_in_all: usize,
    /// What of its mail failed lately, the newest last, a line each.
    pub failures: Vec<String>,
}

/// How a domain is.
#[derive(Debug, Clone)]
pub struct DomainFacts<'a> {
    /// Its row.
    pub row: &'a Domain,
    /// Recipients that are refused because of too many rejections, if anybody has counted.
    pub blacklisted: Option<u64>,
    /// Since when nothing in it is listed.
    pub frozen_since_ms: Option<u64>,
    /// Its queue on this host, in words.
    pub queue: String,
}

/// All of it in lines.
pub fn text(arrival: &Arrival<'_>, customers: &[CustomerFacts<'_>]) -> String {
    let mut out = Lines::default();
    let Arrival { host, id, date, client, mail_from, .. } = arrival;
    out.add(&format!("This came to {host} on {date} as {id}, from {client},"));
    out.add(&format!("return path <{mail_from}>. It is below as it came."));
    out.add("");
    out.add(&authorship(arrival, customers));
    for facts in customers {
        out.add("");
        customer(&mut out, facts);
    }
    out.text
}

fn authorship(arrival: &Arrival<'_>, customers: &[CustomerFacts<'_>]) -> String {
    let findings = arrival.found.map_or_else(
        || "nobody could ask SPF and DKIM".to_owned(),
        |found| {
            let signed = found.dkim.iter().map(|s| format!("{} {}", s.domain, s.result.as_str()));
            let signed: Vec<String> = signed.collect();
            let signed = if signed.is_empty() { "none".to_owned() } else { signed.join(", ") };
            format!("SPF {}, DKIM {signed}", found.spf.as_str())
        },
    );
    let Some(author) = arrival.author else {
        return format!("Author: not one address that could be answered. ({findings})");
    };
    let whose = match customers {
        [] => "no customer's contact".to_owned(),
        all => {
            let ids: Vec<&str> = all.iter().map(|facts| facts.customer.id.as_str()).collect();
            format!("a contact of {}", ids.join(", "))
        }
    };
    let known = match arrival.is_authors {
        true => "authenticated",
        false => "NOT authenticated: whoever wrote this may not be who it says",
    };
    format!("Author: {author}, {whose}; {known}. ({findings})")
}

fn customer(out: &mut Lines, facts: &CustomerFacts<'_>) {
    let CustomerFacts { customer, names, .. } = facts;
    let status = match customer.status {
        CustomerStatus::Active => "active",
        CustomerStatus::Suspended => "SUSPENDED: its mail is answered 450",
    };
    out.add(&format!("Customer {} ({}): {status}", customer.id, customer.name));
    out.add(&format!("MX names: {}", or_none(names)));
    match facts.migration {
        None => out.add("Migration: none"),
        Some((number, step)) => migration(out, number, step),
    }
    out.add(&format!("Domains: {}", facts.domains_in_all));
    for domain in &facts.domains {
        let Domain { name, route, tls, .. } = domain.row;
        out.add(&format!("  {name}: route {route}, TLS {tls}"));
        out.add(&format!("    queue here: {}", domain.queue));
        let frozen = match domain.frozen_since_ms {
            Some(at_ms) => format!("; FROZEN since {}", timestamp(at_ms)),
            None => String::new(),
        };
        let listed = domain.blacklisted.map_or("not counted".to_owned(), |n| n.to_string());
        out.add(&format!("    blacklisted recipients: {listed}{frozen}"));
    }
    if facts.domains_in_all > facts.domains.len() {
        out.add(&format!("  and {} more", facts.domains_in_all - facts.domains.len()));
    }
    if facts.failures.is_empty() {
        out.add("Failed here of late: nothing");
    } else {
        out.add("Failed here of late, the newest last:");
        facts.failures.iter().for_each(|line| out.add(&format!("  {line}")));
    }
}

fn migration(out: &mut Lines, number: u64, step: &MigrationStep) {
    let told = match &step.told {
        Told::NotYet => "not told yet".to_owned(),
        Told::NoContact => "cannot be told: no contact".to_owned(),
        Told::Sending { .. } => "a letter is on its way".to_owned(),
        Told::Accepted { at_ms } => format!("told on {}", timestamp(*at_ms)),
        Told::Bounced { at_ms, why } => {
            format!("the letter came back on {}: {why}", timestamp(*at_ms))
        }
    };
    let seen = match step.survey {
        Survey::Unknown => "its MX records were not seen",
        Survey::Old { .. } => "its MX records still have names that end",
        Survey::Moved { .. } => "its MX records have moved",
        Survey::Elsewhere { .. } => "its MX records have no name of ours",
    };
    out.add(&format!("Migration {number}: {told}; {seen}"));
    out.add(&format!("  from {} to {}", or_none(&step.before), or_none(&step.after)));
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Lines that stay within a bound, whatever stands in them.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, line: &str) {
        let line = field::clean(line, true);
        if self.text.len() + line.len() < TEXT_OCTETS_MAX {
            let _ = writeln!(self.text, "{line}"); // writing to a String cannot fail
        }
    }
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::{RecipientPolicy, TlsPolicy};

    use super::*;
    use crate::smtp::authentication::{Finding, Signature};

    fn acme() -> Customer {
        Customer {
            id: "acme".into(),
            name: "Acme\r\n\x1b[2J".into(),
            contacts: vec!["Jane@acme.test".into()],
            status: CustomerStatus::Active,
        }
    }

    fn domain(name: &str) -> Domain {
        Domain {
            name: name.into(),
            customer: "acme".into(),
            route: "mail.acme.test:25".parse().unwrap(),
            tls: TlsPolicy::Require,
            connections_max: None,
            recipients: RecipientPolicy::default(),
        }
    }

    fn told(is_authors: bool, domains: usize) -> String {
        let author = Address::parse("jane@acme.test", false).unwrap();
        let signature = Signature { result: Finding::Pass, domain: "acme.test".into() };
        let found = Authentication {
            by: "mx1.relay.test".into(),
            spf: Finding::SoftFail,
            dkim: vec![signature],
        };
        let arrival = Arrival {
            host: "mx1.relay.test",
            id: "Q1",
            date: "Mon, 24 Nov 2025 16:00:01 +0000",
            client: "client.test[192.0.2.7]",
            mail_from: "jane@acme.test",
            author: Some(&author),
            found: Some(&found),
            is_authors,
        };
        let (customer, row) = (acme(), domain("acme.test"));
        let step = MigrationStep {
            before: vec!["mx1.relay.test".into()],
            after: vec!["mx-e.relay.test".into()],
            told: Told::Accepted { at_ms: 0 },
            survey: Survey::Old { at_ms: 0 },
            ..MigrationStep::default()
        };
        let facts = DomainFacts {
            row: &row,
            blacklisted: Some(7),
            frozen_since_ms: Some(0),
            queue: "12 messages, the oldest 4h old; failing: connection refused".into(),
        };
        let facts = CustomerFacts {
            customer: &customer,
            names: &["mx1.relay.test".to_owned()],
            migration: Some((7, &step)),
            domains: vec![facts; domains.min(DOMAINS_MAX)],
            domains_in_all: domains,
            failures: vec!["550 5.1.1 no\r\nsuch user".into()],
        };
        text(&arrival, &[facts])
    }

    #[test]
    fn operators_read_who_it_is_and_how_the_customer_is() {
        let text = told(true, 1);
        for part in [
            "as Q1, from client.test[192.0.2.7],\nreturn path <jane@acme.test>",
            "Author: jane@acme.test, a contact of acme; authenticated. \
             (SPF softfail, DKIM acme.test pass)\n",
            "MX names: mx1.relay.test\n",
            "Migration 7: told on 1970-01-01T00:00:00Z; its MX records still have names that end\n",
            "  from mx1.relay.test to mx-e.relay.test\n",
            "  acme.test: route mail.acme.test:25, TLS require\n",
            "    queue here: 12 messages, the oldest 4h old; failing: connection refused\n",
            "    blacklisted recipients: 7; FROZEN since 1970-01-01T00:00:00Z\n",
            "  550 5.1.1 no  such user\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains(['\r', '\x1b']), "{text:?}");
    }

    #[test]
    fn who_is_not_known_is_called_so_and_much_is_cut() {
        let text = told(false, 100_000);
        assert!(text.contains("; NOT authenticated: "), "{text}");
        assert!(text.contains("  and 99950 more\n"), "{text}");
        assert!(text.len() < TEXT_OCTETS_MAX);
    }
}
