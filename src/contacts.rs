//! Who is a customer's contact. Pure.

use mxfleet_cluster::{Customer, State};

use crate::smtp::Address;

/// The contacts that mail can be sent to, each once: whatever is no address is none.
pub fn contacts(customer: &Customer) -> Vec<Address> {
    let mut found: Vec<Address> = Vec::new();
    for contact in customer.contacts.iter().filter_map(|text| Address::parse(text, true).ok()) {
        if !found.iter().any(|known| known.is_same(&contact)) {
            found.push(contact);
        }
    }
    found
}

/// The customers that somebody is a contact of, at most so many, and how their rows have the
/// address. Looks at every customer, so it runs where it may take its time.
pub fn customers_of<'a>(
    state: &'a State,
    contact: &Address,
    most: usize,
) -> Vec<(&'a Customer, Vec<Address>)> {
    let theirs = |customer| {
        let mut found = contacts(customer);
        found.retain(|one| one.is_same(contact));
        (!found.is_empty()).then_some((customer, found))
    };
    state.customers().filter_map(theirs).take(most).collect()
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::CustomerStatus;

    use super::*;

    #[test]
    fn contacts_that_are_no_addresses_or_there_already_are_left_out() {
        let texts = ["ops@acme.test", "a\r\nBcc: x@y.test", "no", "<x@y.test>", "ops@ACME.test"];
        let customer = Customer {
            id: "acme".to_owned(),
            name: "Acme".to_owned(),
            contacts: texts.map(str::to_owned).to_vec(),
            status: CustomerStatus::Active,
        };
        let found: Vec<String> = contacts(&customer).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["ops@acme.test"]);
    }
}
