//! Addresses that try to relay, to escape or to confuse.

use super::{CONTROL, Relay, USER, assert_in_step, assert_refused};

/// Every way to name someone else's recipient.
const ELSEWHERE: &[&str] = &[
    "u@other.test",
    "u%other.test@customer.test.other.test",
    "u@other.test@customer.test",
    "u@[127.0.0.1]",
    "u@[IPv6:::1]",
    "u@2130706433",
    "u@xcustomer.test",
    "u@customer.test.other.test",
    "u@.customer.test",
    "u@customer.test..",
    "u@other.test.",
    "u@sub.customer.test",
    "u@customer",
    "u@localhost",
    "${run{id}}@localhost",
];

/// Not addresses at all.
const MALFORMED: &[&str] = &[
    "RCPT TO:<>",
    "RCPT TO:<@>",
    "RCPT TO:<u@>",
    "RCPT TO:<@customer.test>",
    "RCPT TO:<u>",
    "RCPT TO:u@customer.test>",
    "RCPT TO:<u@customer.test",
    "RCPT TO:<u@customer.test>x",
    "RCPT TO:<u v@customer.test>",
    "RCPT TO:<u@customer.test\tx>",
    "RCPT TO:<u@cust\u{1b}omer.test>",
    "RCPT TO:<\u{7f}u@customer.test>",
    "RCPT TO:<u..v@customer.test>",
    "RCPT TO:<.u@customer.test>",
    "RCPT TO:<\"u@customer.test>",
    "RCPT TO:",
    "RCPT <u@customer.test>",
    "RCPT FROM:<u@customer.test>",
];

#[test]
fn nobody_else_s_recipient_is_taken() {
    let relay = Relay::start();
    for recipient in ELSEWHERE {
        let mut client = relay.client();
        let replies = client.envelope("sender@client.test", &[recipient]);
        assert_refused(recipient, &replies[1]);
        assert_in_step(&mut client);
    }
    relay.assert_nothing_arrives();
}

#[test]
fn a_local_part_that_routes_onward_is_refused_or_only_a_local_part() {
    let relay = Relay::start();
    let tricks = [
        "u%other.test@customer.test",
        "\"u@other.test\"@customer.test",
        "other.test!u@customer.test",
    ];
    for recipient in tricks {
        let mut client = relay.client();
        let replies = client.envelope("sender@client.test", &[recipient]);
        assert_refused(recipient, &replies[1]);
        assert_in_step(&mut client);
    }
    relay.assert_nothing_arrives();
}

#[test]
fn a_source_route_is_refused_or_stripped() {
    let relay = Relay::start();
    let mut client = relay.client();
    let replies = client.envelope("sender@client.test", &["@customer.test:u@other.test"]);
    assert_refused("a route to elsewhere", &replies[1]);
    let reply = client.command("RCPT TO:<@other.test:u@customer.test>");
    if reply.code == 250 {
        client.command("DATA");
        client.send(format!("{CONTROL}.\r\n").as_bytes());
        assert_eq!(client.reply().code, 250);
        assert_eq!(relay.settled()[0].to(), ["u@customer.test"]);
    } else {
        assert_refused("a source route", &reply);
        relay.assert_nothing_arrives();
    }
}

#[test]
fn malformed_recipients_are_refused() {
    let relay = Relay::start();
    for command in MALFORMED {
        let mut client = relay.client();
        client.command("MAIL FROM:<sender@client.test>");
        let reply = client.command(command);
        assert_refused(command, &reply);
        assert_in_step(&mut client);
    }
}

#[test]
fn octets_that_cut_an_address_are_refused() {
    let relay = Relay::start();
    for command in [
        "RCPT TO:<u@other.test\0@customer.test>",
        "RCPT TO:<u@customer.test\0.other.test>",
        "RCPT TO:<u@customer.test>\rRCPT TO:<v@other.test>",
    ] {
        let mut client = relay.client();
        client.command("MAIL FROM:<sender@client.test>");
        let reply = client.command(command);
        assert!(reply.is_closed() || (500..560).contains(&reply.code), "{command:?}: {reply:?}");
        if !reply.is_closed() {
            assert_in_step(&mut client);
        }
    }
    // Behind a bare LF nothing can be trusted to be a command.
    let mut client = relay.client();
    client.command("MAIL FROM:<s@client.test>");
    client.send(b"RCPT TO:<u@customer.test>\nRCPT TO:<v@customer.test>\r\n");
    assert_eq!(client.reply().code, 500);
    assert!(client.reply().is_closed());
    relay.assert_nothing_arrives();
}

#[test]
fn domains_that_only_look_alike_are_refused() {
    let relay = Relay::start();
    // A Cyrillic letter, full-width letters, an ideographic full stop, an invisible joiner.
    let alike =
        ["сustomer.test", "customer．ｔest", "customer。test.other", "custo\u{200d}mer.test"];
    for domain in alike {
        let mut client = relay.client();
        client.command("MAIL FROM:<sender@client.test>");
        let reply = client.command(&format!("RCPT TO:<u@{domain}>"));
        assert_refused(domain, &reply);
        client.command("RSET");
        client.command("MAIL FROM:<sender@client.test> SMTPUTF8");
        let reply = client.command(&format!("RCPT TO:<u@{}.other.test>", domain));
        assert_refused(domain, &reply);
        assert_in_step(&mut client);
    }
    let mut client = relay.client();
    client.command("MAIL FROM:<sender@client.test> SMTPUTF8");
    assert_refused("homoglyph", &client.command("RCPT TO:<u@сustomer.test>"));
}

#[test]
fn the_case_of_a_domain_does_not_matter() {
    let relay = Relay::start();
    let reply =
        relay.client().deliver("sender@client.test", &["U.Ser@CUSTOMER.Test"], CONTROL.as_bytes());
    assert_eq!(reply.code, 250, "{reply:?}");
    let received = relay.settled();
    let to = received[0].to()[0];
    let (local, domain) = to.rsplit_once('@').unwrap();
    assert_eq!(local, "U.Ser", "the local part is not ours to change");
    assert!(domain.eq_ignore_ascii_case("customer.test"));
}

#[test]
fn the_postmaster_and_the_null_sender_are_always_welcome() {
    let relay = Relay::start();
    let mut client = relay.client();
    let to = ["postmaster@customer.test", "PostMaster@customer.test"];
    for reply in client.envelope("", &to) {
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    assert_eq!(client.command("RCPT TO:<Postmaster>").code, 250, "RFC 5321 section 4.5.1");
}

#[test]
fn senders_that_are_commands_are_refused() {
    let relay = Relay::start();
    for sender in [";sleep 66;", "|id", "a b@client.test", "@", "a@", "a@b@c", "a@b\u{1b}.test"] {
        let mut client = relay.client();
        let reply = client.command(&format!("MAIL FROM:<{sender}>"));
        assert_refused(sender, &reply);
        assert_in_step(&mut client);
    }
}

#[test]
fn shell_words_in_a_local_part_arrive_unchanged_or_not_at_all() {
    let relay = Relay::start();
    let mut taken = Vec::new();
    for local in ["|id", "$(id)", "`id`", "-oQ/tmp/x", "a/../../x", "${run{id}}", "a'b", "#x"] {
        let recipient = format!("{local}@customer.test");
        let mut client = relay.client();
        let reply = client.deliver("sender@client.test", &[&recipient], CONTROL.as_bytes());
        if reply.code == 250 {
            taken.push(recipient);
        } else {
            assert_refused(&recipient, &reply);
            assert_in_step(&mut client);
        }
    }
    let received = relay.settled();
    let mut arrived: Vec<&str> = received.iter().flat_map(|received| received.to()).collect();
    arrived.sort_unstable();
    taken.sort_unstable();
    assert_eq!(arrived, taken);
}

#[test]
fn an_address_of_8_bit_octets_needs_smtputf8() {
    let relay = Relay::start();
    let mut client = relay.client();
    client.command("MAIL FROM:<sender@client.test>");
    let reply = client.command("RCPT TO:<jürgen@customer.test>");
    assert_eq!(reply.code, 553, "{reply:?}");
    client.send(b"RCPT TO:<j\xfcrgen@customer.test>\r\n");
    assert_refused("latin-1", &client.reply());
    client.command("RSET");
    let reply = client.command("MAIL FROM:<jürgen@client.test>");
    assert!([550, 553].contains(&reply.code), "{reply:?}");
    assert_in_step(&mut client);

    assert_eq!(client.command("MAIL FROM:<jürgen@client.test> SMTPUTF8").code, 250);
    client.send(b"RCPT TO:<j\xfcrgen@customer.test>\r\n");
    assert_refused("not UTF-8", &client.reply());
    assert_eq!(client.command("RCPT TO:<jürgen@customer.test>").code, 250);
    client.command("DATA");
    client.send(format!("{CONTROL}.\r\n").as_bytes());
    assert_eq!(client.reply().code, 250);
    let received = relay.settled();
    assert_eq!(received[0].to(), ["jürgen@customer.test"]);
    assert!(received[0].mail.contains("SMTPUTF8"), "{}", received[0].mail);
}

#[test]
fn nothing_tells_who_exists() {
    let relay = Relay::start();
    let mut client = relay.client();
    let answers: Vec<String> = [USER, "u@other.test", "postmaster", "<>", "root"]
        .iter()
        .map(|who| client.command(&format!("VRFY {who}")).line())
        .collect();
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
    assert!(answers[0].starts_with("252 "), "{answers:?}");
    for command in [
        "EXPN list",
        "ETRN customer.test",
        "TURN",
        "XCLIENT ADDR=1.2.3.4",
        "XFORWARD NAME=x",
        "AUTH PLAIN AA==",
    ] {
        assert_refused(command, &client.command(command));
    }
    assert_in_step(&mut client);
}
