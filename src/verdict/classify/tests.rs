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
            "450 4.1.1 <a@b.test>: Recipient address rejected: User unknown in local recipient table",
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
            "550-5.1.1 Unknown user, or so it seems.\n550-5.1.1 In fact your IP address\n550 5.1.1 is on a blacklist",
            "550 5.1.1 Recipient domain not found",
            "550 5.1.1 <a@b.test>: Recipient address rejected: unverified address: unknown user",
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
            "550 No such user: quota@policy.example see https://help.example/spam/relay-denied.html",
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
            "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302). [BN.eop-nam.prod.protection.outlook.com]",
            "550 5.1.351 Remote server returned unknown recipient or mailbox unavailable -> 550 5.1.1 <a@b.test>: Recipient address rejected: User unknown",
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
            "550 5.7.129 RESOLVER.RST.RestrictedToRecipientsPermission; not authorized to send to recipient",
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
    fn any_text_is_judged_without_a_panic(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        classify_text(Stage::Rcpt, &text);
        classify_text(Stage::Rcpt, &format!("550 5.1.1 {text}"));
        classify_text(Stage::Rcpt, &String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn many_ways_to_say_that_a_mailbox_does_not_exist() {
    expect(
        UnknownUser,
        &[
            "550 Invalid recipient: <a@b.test>",
            "550 5.0.0 <a@b.test>... No such user here",
            "550 5.1.1 Addressee unknown, relay=[192.0.2.1]",
            "550 unknown user <a@b.test>",
            "550 <a@b.test>: no such mailbox",
            "550 Mailbox not found",
            "550 mailbox <a@b.test> does not exist",
            "553 sorry, no mailbox here by that name. (#5.7.17)",
            "550 sorry, no mailbox here by that name (#5.1.1 - chkusr)",
            "553 5.3.0 <a@b.test>... Addressee is unknown",
            "554 delivery error: dd This user doesn't have a yahoo.com account (a@yahoo.com) [0] - mta1.mail.yahoo.com",
            "554 delivery error: dd Sorry your message to a@yahoo.com cannot be delivered. This account does not exist",
            "552 1 Requested mail action aborted, mailbox not found",
            "550 Requested action not taken: mailbox not found",
            "550 a@b.test User not found",
            "550 #5.1.0 Address rejected. No such address",
            "550 5.1.1 unknown or illegal alias: a@b.test",
            "550 unknown or illegal user: a@b.test",
            "550 Recipient not found. <http://x.example/601>",
            "550 5.1.0 Recipient unknown",
            "550 5.2.1 The user does not exist",
            "550 a@b.test does not exist as a user: user not known",
            "550 The recipient cannot be verified. Recipient does not exist",
            "550 vdeliver: invalid or unknown virtual user",
            "550 User a@b.test is not known here",
            "550 Account not found",
            "550 Account a@b.test could not be found",
            "550 The email address couldn't be found, or is misspelled",
            "550 5.7.1 No such user!",
            "550 invalid address",
            "550 5.1.2 Mailbox does not exist.",
            "550 Unknown local part a in <a@b.test>",
            "550 Unknown address",
            "550 Non-existent user",
            "550 We do not have a mailbox for this name; no such person at this address",
            "550 there is no such user on this system",
            "550 No such local user",
            "550 <a@b.test> not a valid user",
            "550 a@b.test is not one of our users",
            "550 not our user",
            "550 User [a@b.test] not recognized.",
            "550 User a not listed in public Name & Address Book",
            "550 a@b.test... not listed in Domino Directory",
            "550 No mailbox found",
            "550 I could not find the user you are looking for: unknown user",
            "550 Sorry, I couldn't find a mailbox by that name",
            "550 email address does not exist",
            "550 No one at this address",
        ],
    );
}

#[test]
fn many_languages_say_it_too() {
    expect(
        UnknownUser,
        &[
            "550 Usuario desconocido",
            "550 El usuario no existe",
            "550 La dirección de correo no existe: cuenta inexistente",
            "550 Usuário desconhecido",
            "550 Destinatário inexistente",
            "550 A conta não existe",
            "550 Destinataire inconnu",
            "550 Utilisateur inconnu !",
            "550 L’adresse n’existe pas",
            "550 Cette boîte aux lettres n'existe pas",
            "550 Empfänger unbekannt",
            "550 Empfaenger existiert nicht",
            "550 Benutzer nicht gefunden",
            "550 Unbekannter Empfänger",
            "550 Utente sconosciuto",
            "550 Indirizzo inesistente",
            "550 La casella non esiste",
            "550 Nieznany odbiorca",
            "550 Użytkownik nie istnieje",
            "550 Gebruiker onbekend",
            "550 Пользователь не найден",
            "550 Почтовый ящик не существует",
            "550 用户不存在",
            "550 Kullanıcı bulunamadı",
            "550 Okänd mottagare",
            "550 Ukjent bruker",
            "550 Uživatel neexistuje",
        ],
    );
}

#[test]
fn many_refusals_that_are_about_something_else() {
    expect(
        OtherPermanent,
        &[
            "550 Unrouteable address",
            "550 5.1.1 Recipient address rejected: Access denied"
                .replace("5.1.1", "5.7.1")
                .as_str(),
            "554 5.7.1 <a@b.test>: Recipient address rejected: Access denied",
            "550 Recipient rejected",
            "550 Requested action not taken: mailbox unavailable",
            "550 5.7.1 Unable to relay for a@b.test",
            "550 Unknown sender address",
            "550 sender unknown: no such user at your host",
            "550 Your address does not exist",
            "550 <x@y.test>: Sender address rejected: User unknown in local recipient table",
            "550 Domain of sender address x@y.test does not exist",
            "550 unknown user: the domain y.test does not exist",
            "550 5.1.0 Invalid MAIL FROM address",
            "550 Invalid address in From: header",
            "550 invalid HELO address",
            "550 Recipient domain does not exist",
            "550 The domain in the recipient address does not exist",
            "550 No such domain here",
            "550 Unknown host",
            "550 Invalid domain name in address",
            "550 Bad address syntax: user unknown",
            "550 Illegal character in address",
            "550 Recipient rejected. Unknown error",
            "550 mailbox problem: unknown reason",
            "550 User quota exceeded, unknown when it will be available",
            "550 5.2.1 This account has been disabled or discontinued",
            "550 5.2.1 The user you are trying to contact does not exist any more; mailbox suspended",
            "550 Directory harvest attack: too many unknown users",
            "550 Excessive unknown recipients - possible Open Relay http://x.example",
            "550 Policy rejection: recipient not found in allowed list",
            "550 account not found (#5.2.2)",
            "550 Unknown user name or bad password",
            "550 Null sender is not accepted for an unknown user",
            "554 no valid recipients",
            "554 5.5.1 Error: no valid recipients",
            "503 Need RCPT: no such recipient",
            "550 Recipient is not allowed to receive mail",
            "550 Administrative prohibition",
            "550 The mail server could not deliver mail to a@b.test. The account or domain may not exist, they may be blacklisted, or missing the proper dns entries.",
            "550 Verification failed for <x@y.test>\n550 Called: 192.0.2.1\n550 Sent: RCPT TO:<x@y.test>\n550 Response: 550 No such user\n550 Sender verify failed",
            "550 relay not permitted, unknown user",
            "550 We don't accept mail from unknown users at this IP",
            "550 user over quota, address unknown to billing",
            "550 Account blocked: unknown user activity",
            "550 5.1.1 mailbox temporarily unknown",
            "550 Mailbox is full / Blocks limit exceeded / Inode limit exceeded",
            "550 No PTR record, unknown client address",
            "550 Client host rejected: cannot find your hostname, unknown address",
            "550 this mailbox has moved: unknown at this address",
            "550 Message rejected: invalid recipient in To header",
            "550 You are not permitted to send to this address: unknown user",
            "550 Unknown attachment type for account",
            "550 TLS required for unknown recipients",
            "550 Dirección del remitente inexistente",
            "550 Expéditeur inconnu: adresse inconnue",
            "550 Absender unbekannt: Adresse existiert nicht",
        ],
    );
}
