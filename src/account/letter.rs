//! The letter that brings a link. Pure.

use mxfleet_cluster::Customer;

use crate::post::{Text, moment};

/// What the letter with this link says; `id` makes it one of its own.
pub(super) fn compose(
    customer: &Customer,
    service: &str,
    url: &str,
    ends_ms: u64,
    id: u128,
) -> Text {
    let body = format!(
        "Dear {name},\n\n\
         somebody, most likely one of you, has asked {service} for a link to what concerns you\n\
         there: your domains, the mail that waits for them, the recipients that are refused.\n\n\
         {indent}{url}\n\n\
         It is good until {ends}. Whoever has it can see all that, and let\n\
         refused recipients in again: pass it on only to those who may.\n\n\
         If none of you has asked, there is nothing to do: only you got this message.\n\n\
         Answers to this message are read by people.",
        name = customer.name,
        indent = "    ",
        ends = moment(ends_ms),
    );
    Text { subject: "The link you asked for".to_owned(), id: format!("link-{id:032x}"), body }
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::CustomerStatus;

    use super::*;
    use crate::smtp::Address;

    #[test]
    fn it_has_the_link_on_a_line_of_its_own_and_asks_for_no_answer_of_automata() {
        let customer = Customer {
            id: "acme".to_owned(),
            name: "Acme".to_owned(),
            contacts: Vec::new(),
            status: CustomerStatus::Active,
        };
        let url = "https://status.relay.example/customer/00";
        let text = compose(&customer, "Example & sons", url, 1_275_264_000_000, 7);
        let [from, to] = ["support@relay.test", "ops@acme.test"]
            .map(|address| Address::parse(address, true).unwrap());
        let letter = String::from_utf8(text.letter(&from, &[to], 0)).unwrap();
        for part in [
            "Message-ID: <link-00000000000000000000000000000007@relay.test>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "Dear Acme,\r\n",
            "has asked Example & sons for a link",
            "\r\n    https://status.relay.example/customer/00\r\n",
            "It is good until Monday, 2010-05-31 at 00:00 UTC.",
        ] {
            assert!(letter.contains(part), "{part:?} is not in\n{letter}");
        }
    }
}
