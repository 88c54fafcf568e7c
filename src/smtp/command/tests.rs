//! Commands as clients write them, well and badly.

use proptest::prelude::*;

use super::*;
use crate::smtp::BodyType;

fn parsed(line: &str) -> Command<'_> {
    parse(line.as_bytes(), false).unwrap()
}

fn refused(line: &str) -> Canned {
    parse(line.as_bytes(), false).unwrap_err()
}

#[test]
fn verbs_have_no_case() {
    assert_eq!(parsed("eHlO client.test"), Command::Ehlo("client.test"));
    assert_eq!(parsed("quit"), Command::Quit);
    assert_eq!(parsed("Bdat 10 last"), Command::Bdat(Chunk { octets: 10, last: true }));
}

#[test]
fn mail_has_a_path_and_parameters() {
    let Command::Mail(mail) = parsed("MAIL FROM:<a@b.test> size=10 BODY=8bitmime") else {
        panic!("no MAIL");
    };
    assert_eq!(mail.from.unwrap().as_str(), "a@b.test");
    assert_eq!(mail.parameters.size, Some(10));
    assert_eq!(mail.parameters.body, Some(BodyType::EightBitMime));
    assert!(matches!(parsed("MAIL FROM:<>"), Command::Mail(Mail { from: None, .. })));
}

#[test]
fn one_space_behind_the_colon_is_tolerated_and_nothing_else() {
    assert!(matches!(parsed("RCPT TO: <a@b.test>"), Command::Rcpt(_)));
    for line in [
        "RCPT TO:  <a@b.test>",
        "RCPT  TO:<a@b.test>",
        "RCPT TO :<a@b.test>",
        "RCPT TO:a@b.test",
        "RCPT TO:<a@b.test",
        "RCPT TO:<a@b.test>NOTIFY=NEVER",
        "RCPT TO:<\"a>@b.test>",
    ] {
        assert_eq!(refused(line), canned::RCPT_SYNTAX, "{line}");
    }
}

#[test]
fn a_bracket_inside_quotes_does_not_end_the_path() {
    let Command::Rcpt(rcpt) = parsed(r#"RCPT TO:<"a>b\"c"@b.test> NOTIFY=NEVER"#) else {
        panic!("no RCPT");
    };
    assert_eq!(rcpt.to.unwrap().local_part(), r#""a>b\"c""#);
    assert!(rcpt.parameters.notify.is_some());
}

#[test]
fn postmaster_needs_no_domain() {
    assert!(matches!(parsed("RCPT TO:<PostMaster>"), Command::Rcpt(Rcpt { to: None, .. })));
}

#[test]
fn utf8_is_for_transactions_that_asked_for_it() {
    let line = "RCPT TO:<ü@b.test>".as_bytes();
    assert_eq!(parse(line, false), Err(canned::NEEDS_UTF8));
    assert!(parse(line, true).is_ok());
    assert!(parse("MAIL FROM:<ü@b.test> SMTPUTF8".as_bytes(), false).is_ok());
    assert_eq!(parse(b"RCPT TO:<\xfc@b.test>", true), Err(canned::NEEDS_UTF8));
}

#[test]
fn a_chunk_without_a_size_is_broken() {
    for line in ["BDAT", "BDAT x", "BDAT -1", "BDAT +1", "BDAT 1 2", "BDAT  1", "BDAT 1 LAST x"] {
        assert_eq!(parsed(line), Command::BdatBroken, "{line}");
    }
    let most = format!("BDAT {}", u64::MAX);
    assert_eq!(parsed(&most), Command::Bdat(Chunk { octets: u64::MAX, last: false }));
    assert_eq!(parsed("BDAT 18446744073709551616"), Command::BdatBroken);
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(line: Vec<u8>, utf8: bool) {
        let _ = parse(&line, utf8);
    }

    #[test]
    fn nothing_that_looks_like_a_command_makes_it_panic(
        verb in "(?i)(MAIL FROM:|RCPT TO:|BDAT |EHLO )",
        rest in r#"[ <>"\\@,:;.=+%!a-z0-9\[\]ü{}-]{0,60}"#,
        utf8: bool,
    ) {
        let _ = parse(format!("{verb}{rest}").as_bytes(), utf8);
    }

    #[test]
    fn an_address_that_passes_is_clean(
        rest in r#"<[ "\\@,:;.=+%!a-z0-9\[\]ü\x00-\x1f-]{0,40}>"#,
    ) {
        if let Ok(Command::Rcpt(Rcpt { to: Some(to), .. })) =
            parse(format!("RCPT TO:{rest}").as_bytes(), true)
        {
            prop_assert!(!to.as_str().chars().any(char::is_control));
            prop_assert_eq!(format!("<{to}>"), rest);
        }
    }
}
