//! The letter that tells a customer of a migration. Pure.

use std::fmt::Write as _;

use mxfleet_cluster::{Customer, Migration, MigrationStage, MigrationStep, Survey};

use crate::post::{Text, moment};
use crate::rotation::records::preferences;
use crate::system::clock::timestamp;

/// Domains whose records are written out; a customer with more knows the pattern by then.
const DOMAINS_MAX: usize = 500;

/// What a letter is made of.
pub(super) struct Draft<'a> {
    pub(super) migration: &'a Migration,
    pub(super) customer: &'a Customer,
    pub(super) step: &'a MigrationStep,
    /// The customer's names from now on.
    pub(super) names: &'a [String],
    /// The customer's domains.
    pub(super) domains: &'a [String],
    /// Which round of letters it is of; a customer's first one announces, later ones remind.
    pub(super) round: u32,
}

/// What is written, without the header that all letters have.
pub(super) fn compose(draft: &Draft<'_>) -> Text {
    let Draft { migration, customer, round, .. } = draft;
    let subject = match (moves(draft), reminds(draft)) {
        _ if migration.is_cancelled() => "MX names stay: the change is cancelled".to_owned(),
        _ if has_ended(migration) => "Change your MX records now: names have ended".to_owned(),
        (false, _) => "MX names change, and yours stay".to_owned(),
        (true, false) => format!("Change your MX records by {}", day(migration.ends_ms)),
        (true, true) => {
            format!("Reminder: change your MX records by {}", day(migration.ends_ms))
        }
    };
    let id = format!("migration-{}.{round}.{}", migration.id, customer.id);
    Text { subject, id, body: body(draft) }
}

fn body(draft: &Draft<'_>) -> String {
    let Draft { migration, customer, names, .. } = draft;
    let mut text = format!("Dear {},\n\n", customer.name);
    if migration.is_cancelled() {
        text.push_str(&cancellation(draft));
        return text;
    }
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    if reminds(draft) {
        add(match draft.step.survey {
            Survey::Unknown => {
                "we could not see whether your MX records still have a name that ends soon: your\n\
                 name servers did not answer us. If you have changed them, you have nothing to do."
            }
            _ => "your MX records still have a name that ends soon, or mail still comes by it.",
        });
        add("We wrote to you about this before:\n");
    }
    if !migration.text.is_empty() {
        add(&migration.text);
        add("");
    }
    if !migration.retire.is_empty() {
        add(&match has_ended(migration) {
            true => "These names have ended:\n".to_owned(),
            false => format!("These names end on {}:\n", moment(migration.ends_ms)),
        });
        migration.retire.iter().for_each(|name| add(&format!("    {name}")));
        add("");
    }
    match () {
        () if moves(draft) && names.is_empty() => {
            add(
                "None of your names stays, and you have no others yet. Please answer this message:",
            );
            add("we tell you which to take.\n");
        }
        () if moves(draft) => {
            add("Your names from now on are:\n");
            names.iter().for_each(|name| add(&format!("    {name}")));
            let until = match has_ended(migration) {
                true => "now".to_owned(),
                false => format!("before {}", moment(migration.ends_ms)),
            };
            add(&format!("\nPlease set the MX records of your domains {until}"));
            add("to exactly these:\n");
            add(records(draft).trim_end());
            add(after_that(migration));
        }
        () => {
            let none = if migration.retire.is_empty() { "" } else { "None of them is yours. " };
            add(&format!("{none}Nothing changes for you."));
            if !names.is_empty() {
                add("Your names are:\n");
                names.iter().for_each(|name| add(&format!("    {name}")));
            }
            add("");
        }
    }
    add("Answers to this message are read by people.");
    text
}

/// What holds when the customer's date has passed.
fn after_that(migration: &Migration) -> &'static str {
    if migration.retire.is_empty() {
        return "\nYour old names go on working; the new ones share the mail out among hosts.\n";
    }
    if has_ended(migration) {
        return "\nUntil then, mail that is sent by the old names is lost.\n";
    }
    "\nOld and new names both work until then. After that, mail that is sent by the\n\
     old names is lost.\n"
}

fn cancellation(draft: &Draft<'_>) -> String {
    if draft.names.is_empty() {
        return "the change of MX names that we wrote to you about is cancelled. You had no names\n\
                of ours before, and those that it gave you may not work any more: if they are in\n\
                your MX records, please take them out, and answer this message for others.\n\n\
                Answers to this message are read by people.\n"
            .to_owned();
    }
    format!(
        "the change of MX names that we wrote to you about is cancelled, and your names stay.\n\
         If you have not changed your MX records, you have nothing to do. If you have, please\n\
         change them back, today if you can: the new names may not work any more. They are to\n\
         be exactly these:\n\n{}\nAnswers to this message are read by people.\n",
        records(draft)
    )
}

/// The records of the customer's domains, a line each.
fn records(draft: &Draft<'_>) -> String {
    let mut text = String::new();
    let Draft { domains, names, .. } = draft;
    if domains.is_empty() {
        for (preference, name) in preferences().zip(*names) {
            let _ = writeln!(text, "    IN MX {preference} {name}.");
        }
    }
    for domain in domains.iter().take(DOMAINS_MAX) {
        for (preference, name) in preferences().zip(*names) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "    {domain}.  IN MX {preference} {name}.");
        }
    }
    if domains.len() > DOMAINS_MAX {
        let more = domains.len() - DOMAINS_MAX;
        let _ = writeln!(text, "    and so on for {more} more domains");
    }
    text
}

fn has_ended(migration: &Migration) -> bool {
    matches!(migration.stage, MigrationStage::Finished { .. })
}

/// Whether the customer has something to do.
fn moves(draft: &Draft<'_>) -> bool {
    let has_old = matches!(draft.step.survey, Survey::Old { .. });
    draft.step.before != draft.names || has_old || reminds(draft)
}

/// Whether the customer was written to before.
fn reminds(draft: &Draft<'_>) -> bool {
    (1..draft.round).contains(&draft.step.first_round)
}

fn day(ms: u64) -> String {
    timestamp(ms).strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::CustomerStatus;

    use super::*;
    use crate::smtp::Address;

    const MAY_31_2010_MS: u64 = 1_275_264_000_000;

    fn written(round: u32, after: &[&str], name: &str) -> String {
        letter((round, 1), after, name, MigrationStage::Announced { at_ms: 0 })
    }

    fn letter(
        (round, first_round): (u32, u32),
        after: &[&str],
        name: &str,
        stage: MigrationStage,
    ) -> String {
        let before = ["mx1.relay.test", "mx-b.relay.test"];
        let names =
            if matches!(stage, MigrationStage::Cancelled { .. }) { &before[..] } else { after };
        letter_of((round, first_round), ENDS, (&before, names), name, stage)
    }

    const ENDS: &[&str] = &["mx1.relay.test", "mx2.relay.test"];

    fn letter_of(
        (round, first_round): (u32, u32),
        retire: &[&str],
        (before, names): (&[&str], &[&str]),
        name: &str,
        stage: MigrationStage,
    ) -> String {
        let step = MigrationStep { before: list(before), first_round, ..MigrationStep::default() };
        letter_to(&step, round, (retire, stage), names, name)
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn letter_to(
        step: &MigrationStep,
        round: u32,
        (retire, stage): (&[&str], MigrationStage),
        names: &[&str],
        name: &str,
    ) -> String {
        let migration = Migration {
            id: 7,
            retire: list(retire),
            introduce: list(&["mx-e.relay.test"]),
            ends_ms: MAY_31_2010_MS,
            text: "mx1 leaves its data centre.\n.A dot.".to_owned(),
            stage,
            planned_ms: 0,
            notice: None,
            rounds: round,
            overdue_ms: None,
        };
        let customer = Customer {
            id: "acme".to_owned(),
            name: name.to_owned(),
            contacts: Vec::new(),
            status: CustomerStatus::Active,
        };
        let draft = Draft {
            migration: &migration,
            customer: &customer,
            step,
            names: &list(names),
            domains: &list(&["acme.test", "acme.example"]),
            round,
        };
        let address = |text| Address::parse(text, true).unwrap();
        let (from, to) = (address("support@relay.test"), ["ops@acme.test", "noc@acme.test"]);
        let text = compose(&draft).letter(&from, &to.map(address), 1_272_450_000_000);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_customer_reads_its_own_names_records_and_the_date() {
        let text = written(1, &["mx-e.relay.test", "mx-b.relay.test"], "Acme");
        for part in [
            "From: <support@relay.test>\r\n",
            "To: <ops@acme.test>,\r\n <noc@acme.test>\r\n",
            "Subject: Change your MX records by 2010-05-31\r\n",
            "Date: Wed, 28 Apr 2010 10:20:00 +0000\r\n",
            "Message-ID: <migration-7.1.acme@relay.test>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "Dear Acme,\r\n",
            "mx1 leaves its data centre.\r\n..A dot.\r\n",
            "These names end on Monday, 2010-05-31 at 00:00 UTC:\r\n",
            "    acme.test.  IN MX 10 mx-e.relay.test.\r\n",
            "    acme.example.  IN MX 20 mx-b.relay.test.\r\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "lines end in CRLF");
    }

    #[test]
    fn who_has_nothing_to_do_reads_that() {
        let text = written(1, &["mx1.relay.test", "mx-b.relay.test"], "Acme");
        assert!(text.contains("Nothing changes for you"), "{text}");
        assert!(!text.contains("IN MX"), "{text}");
    }

    #[test]
    fn a_cancellation_says_what_the_records_are_to_be() {
        let stage = MigrationStage::Cancelled { at_ms: 0 };
        let text = letter((2, 1), &["mx-e.relay.test"], "Acme", stage);
        for part in [
            "Subject: MX names stay: the change is cancelled\r\n",
            "<migration-7.2.acme@relay.test>",
            "    acme.test.  IN MX 10 mx1.relay.test.\r\n",
            "    acme.example.  IN MX 20 mx-b.relay.test.\r\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("mx-e"), "{text}");
    }

    #[test]
    fn a_reminder_says_what_it_is() {
        for (survey, says, leaves_out) in [
            (Survey::Old { at_ms: 1 }, "your MX records still have", "could not see"),
            (Survey::Unknown, "we could not see whether", "your MX records still have a name"),
        ] {
            let before = list(&["mx1.relay.test"]);
            let step = MigrationStep { before, first_round: 1, survey, ..MigrationStep::default() };
            let stage = MigrationStage::Announced { at_ms: 0 };
            let text = letter_to(&step, 2, (ENDS, stage), &["mx-e.relay.test"], "Acme");
            assert!(text.contains("Subject: Reminder: "), "{text}");
            assert!(text.contains("<migration-7.2.acme@relay.test>"), "{text}");
            assert!(text.contains(&format!("\r\n{says}")), "{text}");
            assert!(!text.contains(&format!("\r\n{leaves_out}")), "{text}");
        }
    }

    #[test]
    fn a_first_letter_is_no_reminder_though_others_are_reminded() {
        let stage = MigrationStage::Announced { at_ms: 0 };
        let text = letter((2, 2), &["mx-e.relay.test"], "Acme", stage);
        assert!(text.contains("Subject: Change your MX records by 2010-05-31\r\n"), "{text}");
        assert!(!text.contains("before:"), "{text}");
    }

    #[test]
    fn who_has_no_names_reads_that_and_no_empty_list() {
        for (before, stage, part) in [
            (&[][..], MigrationStage::Cancelled { at_ms: 0 }, "You had no names"),
            (&["mx1.relay.test"], MigrationStage::Announced { at_ms: 0 }, "you have no others yet"),
            (&[], MigrationStage::Announced { at_ms: 0 }, "Nothing changes for you"),
        ] {
            let text = letter_of((1, 1), ENDS, (before, &[]), "Acme", stage);
            assert!(text.contains(part), "{part:?} is not in\n{text}");
            assert!(!text.contains("exactly") && !text.contains("Your names are"), "{text}");
        }
    }

    #[test]
    fn who_moves_for_balance_reads_that_its_old_names_go_on() {
        let stage = MigrationStage::Announced { at_ms: 0 };
        let names = (&["mx1.relay.test"][..], &["mx-e.relay.test"][..]);
        let text = letter_of((1, 1), &[], names, "Acme", stage);
        assert!(text.contains("    acme.test.  IN MX 10 mx-e.relay.test."), "{text}");
        assert!(text.contains("Your old names go on working"), "{text}");
        assert!(!text.contains("lost") && !text.contains("names end"), "{text}");
    }

    #[test]
    fn who_has_an_old_name_that_was_not_given_out_reads_what_the_records_are_to_be() {
        let names = &["mx-b.relay.test"];
        let stage = MigrationStage::Announced { at_ms: 0 };
        for (survey, first_round, subject) in [
            (Survey::Old { at_ms: 1 }, 2, "Subject: Change your MX records by"),
            (Survey::Moved { at_ms: 1 }, 1, "Subject: Reminder: change"), // mail comes by it
        ] {
            let before = list(names);
            let step = MigrationStep { before, first_round, survey, ..MigrationStep::default() };
            let text = letter_to(&step, 2, (ENDS, stage), names, "Acme");
            assert!(text.contains(subject), "{text}");
            assert!(text.contains("    acme.test.  IN MX 10 mx-b.relay.test."), "{text}");
            assert!(!text.contains("Nothing changes"), "{text}");
        }
    }

    #[test]
    fn who_is_resumed_after_the_end_reads_that_names_have_ended() {
        let before = list(&["mx1.relay.test"]);
        let step = MigrationStep { before, ..MigrationStep::default() };
        let stage = MigrationStage::Finished { at_ms: MAY_31_2010_MS };
        let text = letter_to(&step, 1, (ENDS, stage), &["mx-e.relay.test"], "Acme");
        for part in [
            "Subject: Change your MX records now: names have ended\r\n",
            "These names have ended:\r\n\r\n    mx1.relay.test\r\n",
            "set the MX records of your domains now\r\n",
            "    acme.test.  IN MX 10 mx-e.relay.test.\r\n",
            "Until then, mail that is sent by the old names is lost.",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("2010-05-31"), "{text}");
    }
}
