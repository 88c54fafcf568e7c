//! The customers: who owns domains, and whom to tell.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sharded::Sharded;
use super::{Outcome, Refusal};

const ID_OCTETS_MAX: usize = 64;
const NAME_OCTETS_MAX: usize = 200;
const CONTACTS_MAX: usize = 20;
const CONTACT_OCTETS_MAX: usize = 320;

/// Who owns domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    /// Short and permanent: lowercase letters, digits and hyphens.
    pub id: String,
    /// The name people know it by.
    pub name: String,
    /// Mail addresses that are told what happens to their service.
    pub contacts: Vec<String>,
    /// Whether mail is accepted for its domains.
    pub status: CustomerStatus,
}

/// Whether mail is accepted for a customer's domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CustomerStatus {
    /// Mail is accepted.
    #[default]
    Active,
    /// Mail is turned away for now (4xx), queued mail still goes out.
    Suspended,
}

/// The table of customers.
#[derive(Debug, Clone, Default)]
pub(super) struct Customers {
    rows: Sharded<Arc<str>, Arc<Customer>>,
}

impl Customers {
    pub(super) fn get(&self, id: &str) -> Option<&Customer> {
        self.rows.get(id).map(|row| row.value.as_ref())
    }

    pub(super) fn version(&self, id: &str) -> u64 {
        self.rows.get(id).map_or(0, |row| row.version)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Customer> {
        self.rows.sorted().into_iter().map(|row| row.value.as_ref())
    }

    pub(super) fn require(&self, id: &str) -> Result<&Customer, Refusal> {
        self.get(id).ok_or_else(|| {
            Refusal::not_found(format!(
                "there is no customer {id}; add it with `mxfleet customer add {id} --contact ...`"
            ))
        })
    }

    pub(super) fn add(&mut self, at: u64, customer: &Customer) -> Outcome {
        check(customer)?;
        if self.get(&customer.id).is_some() {
            return Err(Refusal::conflict(format!("customer {} already exists", customer.id)));
        }
        self.put(at, Customer { contacts: once(&customer.contacts), ..customer.clone() })
    }

    pub(super) fn set(
        &mut self,
        at: u64,
        id: &str,
        name: Option<&str>,
        contacts: Option<&[String]>,
    ) -> Outcome {
        let mut customer = self.require(id)?.clone();
        if let Some(name) = name {
            customer.name = name.to_owned();
        }
        if let Some(contacts) = contacts {
            customer.contacts = once(contacts);
        }
        check(&customer)?;
        self.put(at, customer)
    }

    pub(super) fn set_status(&mut self, at: u64, id: &str, status: CustomerStatus) -> Outcome {
        let mut customer = self.require(id)?.clone();
        customer.status = status;
        self.put(at, customer)
    }

    pub(super) fn remove(&mut self, id: &str) -> Outcome {
        self.require(id)?;
        self.rows.remove(id);
        Ok(1)
    }

    fn put(&mut self, at: u64, customer: Customer) -> Outcome {
        self.rows.put(customer.id.as_str().into(), at, Arc::new(customer));
        Ok(1)
    }

    /// Rows with their versions, in order, as a snapshot holds them.
    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, Customer)> {
        self.rows.sorted().into_iter().map(|row| (row.version, Customer::clone(&row.value)))
    }

    pub(super) fn absorb(&mut self, rows: Vec<(u64, Customer)>) {
        for (at, customer) in rows {
            self.rows.put(customer.id.as_str().into(), at, Arc::new(customer));
        }
    }
}

/// Each contact as it was given first: people mean one mailbox, whatever the case of its letters,
/// and want one letter.
fn once(contacts: &[String]) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for contact in contacts.iter().take(CONTACTS_MAX + 1) {
        if !known.iter().any(|known| known.to_lowercase() == contact.to_lowercase()) {
            known.push(contact.clone());
        }
    }
    known
}

fn check(customer: &Customer) -> Result<(), Refusal> {
    let id = &customer.id;
    let id_ok = (1..=ID_OCTETS_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !id.starts_with('-');
    if !id_ok {
        return Err(Refusal::invalid(
            "a customer id is 1 to 64 lowercase letters, digits and hyphens",
        ));
    }
    if customer.name.len() > NAME_OCTETS_MAX || customer.name.chars().any(char::is_control) {
        return Err(Refusal::invalid("a customer's name is at most 200 octets of plain text"));
    }
    if customer.contacts.len() > CONTACTS_MAX {
        return Err(Refusal::invalid("a customer has at most 20 contacts"));
    }
    for contact in &customer.contacts {
        let plain = !contact.chars().any(|c| c.is_control() || c.is_whitespace());
        let parts = contact.rsplit_once('@').is_some_and(|(l, d)| !l.is_empty() && !d.is_empty());
        if !plain || !parts || contact.len() > CONTACT_OCTETS_MAX {
            return Err(Refusal::invalid(format!(
                "contact {} is not a mail address",
                contact.escape_debug()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_given_twice_is_kept_once() {
        let contacts = ["Ops@Acme.test", "ops@acme.test", "b@acme.test"].map(str::to_owned);
        let acme = Customer {
            id: "acme".to_owned(),
            name: "Acme".to_owned(),
            contacts: contacts.to_vec(),
            status: CustomerStatus::Active,
        };
        let mut customers = Customers::default();
        let kept = |customers: &Customers| customers.get("acme").unwrap().contacts.clone();
        customers.add(1, &acme).unwrap();
        assert_eq!(kept(&customers), ["Ops@Acme.test", "b@acme.test"]);
        customers.set(2, "acme", None, Some(&["c@acme.test".to_owned()])).unwrap();
        customers.set(3, "acme", None, Some(&contacts)).unwrap();
        assert_eq!(kept(&customers), ["Ops@Acme.test", "b@acme.test"]);
    }
}
