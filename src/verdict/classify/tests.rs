//! The rules one by one; the labelled corpus is in `tests/unknown_user.rs`.

use super::*;
use Class::{OtherPermanent, Temporary, UnknownUser};
use proptest::prelude::*;

#[track_caller]
fn expect(class: Class, raws: &[&str]) {
    let wrong: Vec<String> = raws
        .iter()
        .map(|raw| (raw, classify_text(Stage::Rcpt, raw)))
        .filter(|(_, judgement)| judgement.class != class)
        .map(|(raw, judgement)| format!("{raw:?}: {}", judgement.why))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_rcpt_can_say_that_a_user_is_unknown() {
    let raw = "550 5.1.1 <a@b.test>: User unknown";
    for stage in [Stage::Connect, Stage::Banner, Stage::Helo, Stage::StartTls, Stage::Mail] {
        assert_eq!(classify_text(stage, raw).class, OtherPermanent);
    }
    for stage in [Stage::Data, Stage::FinalDot] {
        assert_eq!(classify_text(stage, raw).class, OtherPermanent);
        assert_eq!(classify_text(stage, "450 later").class, Temporary);
    }
    assert_eq!(classify_text(Stage::Rcpt, raw).class, UnknownUser);
}

#[test]
fn only_5xx_counts_and_only_with_a_code_of_its_class() {
    expect(
        Temporary,
        &[
            "450 4.1.1 <a@b.test>: Recipient address rejected: User unknown in local table",
            "450 5.1.1 User unknown",
            "421 5.1.1 User unknown",
            "451 Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#451",
            "4.1.1 User unknown",
        ],
    );
    expect(
        OtherPermanent,
        &[
            "550 4.1.1 User unknown",
            "550 User unknown (#4.1.1)",
            "User unknown",
            "5.1.1 User unknown",
            "55 5.1.1 User unknown",
            "5500 5.1.1 User unknown",
            "250 5.1.1 User unknown",
            "",
        ],
    );
}

#[test]
fn some_codes_never_count_and_some_need_words() {
    for code in [500, 502, 503, 504, 521, 523, 525, 530, 535, 538, 541, 555, 556] {
        expect(OtherPermanent, &[&format!("{code} 5.1.1 User unknown")]);
    }
    for code in [511, 550, 551, 553, 554] {
        expect(UnknownUser, &[&format!("{code} 5.1.1 <a@b.test> refused")]);
    }
    for code in [501, 552, 571] {
        expect(OtherPermanent, &[&format!("{code} 5.1.1 <a@b.test> refused")]);
        expect(UnknownUser, &[&format!("{code} 5.1.1 <a@b.test> no such mailbox")]);
    }
}

#[test]
fn other_enhanced_codes_are_not_overruled_by_words() {
    for code in ["5.1.6", "5.1.8", "5.2.2", "5.2.3", "5.3.4", "5.4.4", "5.5.2", "5.6.0", "5.7.26"] {
        expect(OtherPermanent, &[&format!("550 {code} No such user")]);
    }
    for code in ["5.0.0", "5.0.1", "5.1.0", "5.1.2", "5.1.3", "5.2.1", "5.5.0", "5.7.1", "5.7.17"] {
        expect(UnknownUser, &[&format!("550 {code} No such user")]);
        expect(OtherPermanent, &[&format!("550 {code} Refused")]);
    }
}

#[test]
fn a_veto_beats_the_enhanced_code() {
    expect(
        OtherPermanent,
        &[
            "550 5.1.1 <a@b.test>: mailbox full",
            "550 5.1.1 <a@b.test> unknown or full mailbox",
            "550 5.1.1 User unknown or disabled",
            "550 5.1.1 unauthorized sender, no such user",
            "550 5.1.1 Too many invalid recipients",
            "550 5.1.1 <a@b.test>: Recipient address rejected: Relay access denied",
            "554 5.1.1 <a@b.test>: Recipient address rejected: Greylisted",
            "550-5.1.1 Unknown user, or so it seems.\n550 5.1.1 In fact your IP is on a blacklist",
            "550 5.1.1 Recipient domain not found",
            "550 5.1.1 <a@b.test>: Recipient rejected: unverified address: unknown user",
            "550 5.1.1 The account you tried to reach is inactive; user unknown",
            "550 5.1.1 Boîte du destinataire pleine",
            "550 5.1.1 Postfach voll",
        ],
    );
}

#[test]
fn names_neither_veto_nor_match() {
    expect(
        UnknownUser,
        &[
            "550 5.1.1 <spam@full.blocked.example>: Recipient address rejected: User unknown",
            "550 No such user: quota@policy.example see https://help.example/spam/denied",
            "550 User unknown [sender.blocked.example]",
        ],
    );
    expect(
        OtherPermanent,
        &[
            "550 <no.such.user@unknown.example> refused",
            "550 refused, see http://help.example/user/unknown",
        ],
    );
}

#[test]
fn the_enhanced_code_may_stand_within_the_text() {
    expect(
        UnknownUser,
        &[
            "550 sorry, nothing here (#5.1.1)",
            "511 sorry, no (#5.1.1 - chkusr)",
            "550 cuda_nsu 5.1.1 <a@b.test>: Recipient address rejected",
            "550 Exim 4.96.2: unknown user",
        ],
    );
    expect(OtherPermanent, &["553 sorry, no such user here (#5.7.26)", "550 no user (#5.2.2)"]);
}

#[test]
fn providers_with_sayings_of_their_own_are_understood() {
    let tag = "[AM6EUR05FT047.eop-eur05.prod.protection.outlook.com]";
    let denied = "Recipient address rejected: Access denied.";
    expect(
        UnknownUser,
        &[
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
            "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found",
            "550 5.1.1 RESOLVER.ADR.ExRecipNotFound; not found",
            &format!("550 5.4.1 {denied} {tag}"),
            &format!("550 5.5.0 Action not taken: mailbox unavailable (S2017062302). {tag}"),
            "550 5.1.351 Remote server returned 550 5.1.1 <a@b.test>: Recipient unknown",
        ],
    );
    expect(
        OtherPermanent,
        &[
            "556 5.1.10 RESOLVER.ADR.RecipientNotFound",
            "550 5.1.10 Null MX",
            &format!("550 5.4.1 {denied}"),
            &format!("550 5.4.1 All recipient addresses rejected : Access denied. {tag}"),
            "550 5.5.0 Requested action not taken: mailbox unavailable",
            "550 5.1.351 Remote server returned: try again",
            "550 5.7.129 RESOLVER.RST.RestrictedToRecipientsPermission; not authorized",
        ],
    );
}

#[test]
fn a_quoted_reply_is_judged_by_the_outer_code() {
    let inner =
        "host mx.b.test[192.0.2.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)";
    expect(
        UnknownUser,
        &[&format!(
            "550 5.1.1 <a@b.test>: Recipient address rejected: undeliverable address: {inner}"
        )],
    );
    expect(Temporary, &[&format!("450 4.1.1 <a@b.test>: undeliverable address: {inner}")]);
    expect(
        OtherPermanent,
        &["550 5.1.1 <a@b.test>: undeliverable address: host mx.b.test said: 552 Quota exceeded"],
    );
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(
        text in "\\PC{0,200}",
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        classify_text(Stage::Rcpt, &text);
        classify_text(Stage::Rcpt, &format!("550 5.1.1 {text}"));
        classify_text(Stage::Rcpt, &String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn many_ways_to_say_it_and_to_say_something_else() {
    let mut expected = "";
    let mut wrong = Vec::new();
    for line in include_str!("phrases.txt").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            expected = name;
        } else if !line.is_empty() && !line.starts_with('#') {
            let judgement = classify_text(Stage::Rcpt, line);
            if judgement.class.as_str() != expected {
                wrong.push(format!("{line:?}: {}", judgement.why));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
