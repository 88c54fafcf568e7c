//! Who runs the service: its own domain, and the operators that mail to it goes to.
//!
//! **Invariant:** no operator's address is at the service's domain or at a customer's, when it is
//! set: their mail must reach them whatever is wrong with this fleet.

use super::{Domain, Refusal, State, domain_of};

impl State {
    /// The service's own domain, if it has one.
    pub fn service_domain(&self) -> Option<&str> {
        self.settings.get("service.domain").filter(|domain| !domain.is_empty())
    }

    /// The addresses of those who run the service.
    pub fn operators(&self) -> impl Iterator<Item = &str> {
        listed(self.settings.get("service.operators").unwrap_or_default())
    }

    /// Whether what says who runs the service may be changed to `value`.
    pub(super) fn check_service(&self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "service.domain" if self.domain(value).is_some() => Err(Refusal::conflict(format!(
                "{value} is a customer's domain; its mail goes to that customer's server"
            ))),
            "service.domain" => {
                self.operators().try_for_each(|operator| off_fleet(operator, value))
            }
            "service.operators" => listed(value).try_for_each(|operator| {
                off_fleet(operator, self.service_domain().unwrap_or_default())?;
                let domain = domain_of(operator).to_ascii_lowercase();
                match self.domain(&domain) {
                    Some(row) => Err(Refusal::conflict(format!(
                        "{operator} is at a domain of customer {}, which this fleet relays for; \
                         name an address whose mail goes another way",
                        row.customer
                    ))),
                    None if self.name(&domain).is_some() => Err(Refusal::conflict(format!(
                        "{operator} is at an MX name of this fleet, and mail would loop; name \
                             an address elsewhere"
                    ))),
                    None => Ok(()),
                }
            }),
            _ => Ok(()),
        }
    }

    /// The service's own domain can be no customer's.
    pub(super) fn check_not_service(&self, domains: &[Domain]) -> Result<(), Refusal> {
        let own = self.service_domain();
        match domains.iter().find(|domain| own == Some(domain.name.as_str())) {
            Some(domain) => Err(Refusal::conflict(format!(
                "{} is the service's own domain (service.domain)",
                domain.name
            ))),
            None => Ok(()),
        }
    }
}

fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|address| !address.is_empty())
}

fn off_fleet(operator: &str, service: &str) -> Result<(), Refusal> {
    if service.is_empty() || !domain_of(operator).eq_ignore_ascii_case(service) {
        return Ok(());
    }
    Err(Refusal::conflict(format!(
        "{operator} is at the service's own domain, and mail would loop; name an address elsewhere"
    )))
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Customer, CustomerStatus, RecipientPolicy, Request, TlsPolicy};
    use super::*;

    struct Bench {
        state: State,
        index: u64,
    }

    impl Bench {
        fn ask(&mut self, command: Command) -> Result<u64, Refusal> {
            self.index += 1;
            self.state.apply(self.index, &Request::new(self.index.into(), "test", 1, command))
        }

        fn set(&mut self, name: &str, value: &str) -> Result<u64, Refusal> {
            self.ask(Command::SettingSet { name: name.into(), value: Some(value.into()) })
        }

        fn add(&mut self, domain: &str) -> Result<u64, Refusal> {
            self.ask(Command::DomainAdd(row(domain)))
        }
    }

    fn row(domain: &str) -> Domain {
        Domain {
            name: domain.into(),
            customer: "acme".into(),
            route: "192.0.2.1:25".parse().unwrap(),
            tls: TlsPolicy::Opportunistic,
            connections_max: None,
            recipients: RecipientPolicy::default(),
        }
    }

    #[test]
    fn operators_are_elsewhere_and_the_services_domain_is_no_customers() {
        let mut bench = Bench { state: State::default(), index: 0 };
        let customer = Customer {
            id: "acme".into(),
            name: "Acme".into(),
            contacts: Vec::new(),
            status: CustomerStatus::Active,
        };
        bench.ask(Command::CustomerAdd(customer)).unwrap();
        bench.add("acme.test").unwrap();
        bench.set("service.operators", "ops@off.test,b@Off.test").unwrap();
        assert_eq!(bench.state.operators().collect::<Vec<_>>(), ["ops@off.test", "b@Off.test"]);
        for (name, value) in [
            ("service.domain", "acme.test"),
            ("service.domain", "off.test"),
            ("service.operators", "boss@ACME.test"),
            ("service.operators", "ops@off.test,boss@acme.test"),
        ] {
            bench.set(name, value).unwrap_err();
        }
        bench.set("service.domain", "relay.test").unwrap();
        assert_eq!(bench.state.service_domain(), Some("relay.test"));
        bench.set("service.operators", "ops@relay.test").unwrap_err();
        bench.add("relay.test").unwrap_err();
        let domains = vec![row("new.test"), row("relay.test")];
        bench.ask(Command::DomainImport { domains }).unwrap_err();
        assert!(bench.state.domain("new.test").is_none(), "all or none");
        bench.set("service.domain", "").unwrap();
        bench.add("relay.test").unwrap();
        assert_eq!(bench.state.service_domain(), None);
    }
}
