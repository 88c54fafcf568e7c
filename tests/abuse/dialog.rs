//! Commands out of order, protocols that are not SMTP, names that are not names.

use std::time::Duration;

use super::support::smtp::Smtp;
use super::{CONTROL, Relay, USER, assert_in_step};

#[test]
fn commands_out_of_order_change_nothing() {
    let relay = Relay::start();
    let mut client = Smtp::connect(relay.node.smtp());
    for command in ["MAIL FROM:<s@client.test>", "RCPT TO:<user@customer.test>", "DATA"] {
        assert_eq!(client.command(command).code, 503, "{command} before EHLO");
    }
    client.command("EHLO client.test");
    for command in ["RCPT TO:<user@customer.test>", "DATA", "BDAT 0 LAST"] {
        assert_eq!(client.command(command).code, 503, "{command} before MAIL");
    }
    client.command("MAIL FROM:<s@client.test>");
    assert_eq!(client.command("MAIL FROM:<t@client.test>").code, 503, "a second MAIL");
    let reply = client.command("DATA");
    assert!([503, 554].contains(&reply.code), "DATA before RCPT: {reply:?}");
    assert_in_step(&mut client);
    assert_eq!(client.deliver_rest(), 250, "and the transaction still stands");
    assert_eq!(relay.settled()[0].from(), "s@client.test");
}

impl Smtp {
    /// RCPT, DATA and a text for a transaction that has begun.
    fn deliver_rest(&mut self) -> u16 {
        self.command(&format!("RCPT TO:<{USER}>"));
        self.command("DATA");
        self.send(format!("{CONTROL}.\r\n").as_bytes());
        self.reply().code
    }
}

#[test]
fn rset_and_ehlo_forget_the_transaction() {
    let relay = Relay::start();
    for forget in ["RSET", "EHLO client.test", "HELO client.test"] {
        let mut client = relay.client();
        client.envelope("s@client.test", &[USER]);
        assert_eq!(client.command(forget).code, 250);
        assert_eq!(client.command(&format!("RCPT TO:<{USER}>")).code, 503, "after {forget}");
        assert_eq!(client.command("DATA").code, 503, "after {forget}");
    }
}

#[test]
fn data_with_only_refused_recipients_is_refused() {
    let relay = Relay::start();
    let mut client = relay.client();
    client.send(b"MAIL FROM:<s@client.test>\r\nRCPT TO:<u@other.test>\r\nDATA\r\n");
    assert_eq!(client.reply().code, 250);
    assert!((550..560).contains(&client.reply().code));
    let reply = client.reply();
    assert_eq!(reply.code, 554, "{reply:?}");
    assert_in_step(&mut client);
}

#[test]
fn one_refused_recipient_does_not_harm_the_others() {
    let relay = Relay::start();
    let mut client = relay.client();
    let replies = client.envelope("s@client.test", &[USER, "u@other.test", "second@customer.test"]);
    let codes: Vec<u16> = replies.iter().map(|reply| reply.code / 100).collect();
    assert_eq!(codes, [2, 2, 5, 2]);
    client.command("DATA");
    client.send(format!("{CONTROL}.\r\n").as_bytes());
    assert_eq!(client.reply().code, 250);
    let received = relay.settled();
    let mut to: Vec<&str> = received.iter().flat_map(|received| received.to()).collect();
    to.sort_unstable();
    assert_eq!(to, ["second@customer.test", USER]);
}

#[test]
fn a_whole_pipelined_session_is_answered_in_order() {
    let relay = Relay::start();
    let mut client = relay.client();
    let one = format!(
        "MAIL FROM:<s@client.test>\r\nRCPT TO:<{USER}>\r\nRCPT TO:<u@other.test>\r\nRSET\r\n"
    );
    client.send(one.repeat(3).as_bytes());
    for _ in 0..3 {
        let codes: Vec<u16> = (0..4).map(|_| client.reply().code).collect();
        assert_eq!(codes, [250, 250, codes[2], 250]);
        assert!((550..560).contains(&codes[2]), "{codes:?}");
    }
    assert_in_step(&mut client);
}

#[test]
fn a_client_that_talks_before_the_banner_is_turned_away() {
    let relay = Relay::limited(&[("greet_pause_ms", "100")]);
    let mut client = Smtp::open(relay.node.smtp()).unwrap();
    client.send(b"EHLO client.test\r\nMAIL FROM:<s@client.test>\r\n");
    let reply = client.reply();
    assert!([554, 421].contains(&reply.code), "{reply:?}");
    relay.assert_nothing_arrives();
}

#[test]
fn commands_sent_with_ehlo_are_refused() {
    let relay = Relay::start();
    let mut client = Smtp::connect(relay.node.smtp());
    client.send(b"EHLO client.test\r\nMAIL FROM:<s@client.test>\r\n");
    let replies = [client.reply(), client.reply()];
    assert!(
        replies.iter().any(|reply| [554, 421, 503].contains(&reply.code)),
        "EHLO ends a group of commands (RFC 2920 section 3.1): {replies:?}"
    );
}

#[test]
fn a_web_browser_is_not_a_mail_client() {
    let relay = Relay::start();
    let mut client = Smtp::connect(relay.node.smtp());
    let body = format!(
        "EHLO a\r\nMAIL FROM:<s@client.test>\r\nRCPT TO:<{USER}>\r\nDATA\r\n{CONTROL}.\r\n"
    );
    let request =
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    client.send(request.as_bytes());
    let mut codes = Vec::new();
    loop {
        let reply = client.reply();
        if reply.is_closed() {
            break;
        }
        codes.push(reply.code);
        assert!(codes.len() < 20);
    }
    assert!(!codes.contains(&354), "{codes:?}");
    relay.assert_nothing_arrives();
}

#[test]
fn a_tls_hello_on_the_plain_port_is_an_error() {
    let relay = Relay::start();
    let mut client = Smtp::connect(relay.node.smtp());
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x01\x02\r\n\r\n\0\0");
    client.close_writing();
    let reply = client.reply();
    assert!([0, 421, 500, 554].contains(&reply.code), "{reply:?}");
    relay.assert_nothing_arrives();
}

#[test]
fn a_helo_name_is_a_name_or_refused_and_never_dirties_the_trace() {
    let relay = Relay::start();
    let long = format!("EHLO {}.test", "a".repeat(1500));
    for hello in [
        "EHLO a\rb",
        "EHLO a\0b",
        "EHLO <script>alert(1)</script>",
        "EHLO a b",
        "EHLO a\u{1b}[31m",
        "EHLO (a",
        "EHLO ",
        "HELO",
        &long,
    ] {
        let mut client = Smtp::connect(relay.node.smtp());
        let reply = client.command(hello);
        if reply.code != 250 {
            assert!([0, 500, 501].contains(&reply.code), "{hello:?}: {reply:?}");
            continue;
        }
        let reply = client.deliver("s@client.test", &[USER], CONTROL.as_bytes());
        assert_eq!(reply.code, 250, "{hello:?}");
    }
    for received in relay.settled() {
        let text = &received.text[..received.text.len() - received.original().len()];
        let trace = String::from_utf8(text.to_vec()).unwrap();
        assert!(!trace.contains("script>") && trace.len() < 1000, "{trace}");
        assert!(trace.lines().all(|line| !line.chars().any(char::is_control)), "{trace:?}");
    }
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let relay = Relay::start();
    for stage in 0..4 {
        let mut client = relay.client();
        if stage > 0 {
            client.envelope("s@client.test", &[USER]);
        }
        if stage > 1 {
            client.command("DATA");
        }
        if stage > 2 {
            client.send(CONTROL.as_bytes());
        }
        client.vanish();
    }
    // The last one's end has to be noticed, which nothing shows from outside but the gauge.
    super::support::eventually("all sessions end", Duration::from_secs(5), || {
        relay.node.metric("mxfleet_smtp_sessions") == 0.0
    });
    relay.assert_nothing_arrives();
}
