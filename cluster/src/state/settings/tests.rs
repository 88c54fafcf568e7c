//! What values a setting takes, and which are refused.

use super::*;

#[test]
fn every_default_is_valid_and_the_list_is_in_order() {
    for setting in SETTINGS {
        check(setting, setting.default).unwrap();
    }
    assert!(SETTINGS.is_sorted_by_key(|setting| setting.name));
}

#[test]
fn a_word_or_a_rate_that_is_none_is_refused() {
    let mut settings = Settings::default();
    for (name, good, bad) in [
        ("bounce.non_customer", &["verified", "send"][..], &["", "Send", "all"][..]),
        ("bounce.budget", &["0/1h", "5/1d", "1000000/7d"], &["5", "5/", "/1h", "+5/1h", "5/8d"]),
        ("bounce.budget", &["1/1ms"], &["5/0s", "1000001/1h", "-1/1h", "5/1h/1h"]),
    ] {
        for value in good {
            assert_eq!(settings.set(1, name, Some(value)), Ok(1), "{name} {value}");
        }
        for value in bad {
            settings.set(1, name, Some(value)).unwrap_err();
        }
    }
    assert_eq!(settings.rate("bounce.budget"), (1, 1));
    assert_eq!(Settings::default().rate("bounce.budget"), (100, 3_600_000));
}

#[test]
fn names_and_servers_are_checked() {
    let find = |name| find(name).unwrap();
    for (name, good) in [
        ("rotation.zone", "relay.example"),
        ("rotation.dns_servers", "192.0.2.1:53,[::1]:5353"),
        ("rotation.acme_directory", "https://acme.example/dir"),
        ("site.url", "https://status.relay.example"),
        ("site.url", "http://127.0.0.1:8080"),
        ("service.domain", "relay.example"),
        ("service.operators", "ops@example.net"),
        ("service.operators", "ops@example.net,Second.One@xn--bcher-kva.example"),
    ] {
        assert!(check(find(name), good).is_ok() && check(find(name), "").is_ok());
    }
    for (name, bad) in [
        ("rotation.zone", "Relay.Example"),
        ("rotation.zone", "a b"),
        ("rotation.dns_servers", "192.0.2.1"),
        ("rotation.acme_directory", "http://acme.example/dir"),
        ("rotation.acme_directory", "https://"),
        ("rotation.acme_directory", "https://a b"),
        ("rotation.dns_servers", "192.0.2.1:0"),
        ("rotation.dns_primary", "ns.test:53"),
        ("site.url", "status.relay.example"),
        ("site.url", "https://status.relay.example/"),
        ("site.url", "https://user@status.relay.example"),
        ("site.url", "javascript:alert(1)"),
        ("site.title", ""),
        ("service.domain", "relay.example."),
        ("service.operators", "ops@example.net,"),
        ("service.operators", "ops@example.net, second@example.net"),
        ("service.operators", "example.net"),
        (
            "service.operators",
            "a@e.net,b@e.net,c@e.net,d@e.net,e@e.net,f@e.net,g@e.net,h@e.net,i@e.net",
        ),
        ("site.title", "two\nlines"),
    ] {
        assert!(check(find(name), bad).is_err(), "{name} {bad}");
    }
}

#[test]
fn durations_read_back_as_they_were_written() {
    for text in ["90s", "4h", "5d", "1ms", "7m"] {
        assert_eq!(render_duration(parse_duration_ms(text).unwrap()), text);
    }
    for text in ["", "5", "d", "-1s", "1.5h", "5 d", "99999999999999999999d"] {
        assert_eq!(parse_duration_ms(text), None, "{text:?}");
    }
}
