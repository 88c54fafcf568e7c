//! What a configuration file says when it is wrong.

use super::{Limits, LogFormat, check};

const GOOD: &str = r#"
[node]
name = "mx1"
hostname = "MX1.relay.example"
data_dir = "/var/lib/mxfleet"
[smtp]
listen = ["127.0.0.1:2525", "[::1]:2525"]
exempt_networks = ["127.0.0.0/8"]
[[smtp.certificates]]
cert = "a.pem"
key = "a.key"
[dns]
servers = ["127.0.0.1", "[::1]:5353"]
[log]
format = "json"
[limits]
message_octets_max = "25MiB"
command_timeout_ms = "90s"
recipients_max = 200
"#;

fn problems(text: &str) -> Vec<String> {
    check(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_file_is_read_whole() {
    let config = check(GOOD).unwrap();
    assert_eq!(config.cluster.listen, None);
    assert_eq!(config.node.hostname, "mx1.relay.example");
    assert_eq!(config.smtp.listen.len(), 2);
    assert_eq!(config.dns_servers[0].port(), 53);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.admin_socket.to_str(), Some("/var/lib/mxfleet/admin.sock"));
    assert_eq!(config.limits.message_octets_max, 25 << 20);
    assert_eq!(config.limits.command_timeout_ms, 90_000);
    assert_eq!(config.limits.recipients_max, 200);
    assert_eq!(config.limits.hops_max, Limits::default().hops_max);
}

#[test]
fn every_problem_is_said_with_its_line() {
    let text = r#"[node]
name = "MX 1"
data_dir = ""
[smtp]
listne = ["127.0.0.1:25"]
exempt_networks = ["127.0.0.0/99"]
[limits]
recipients_max = 5
command_timeout_ms = "soon"
message_octets_max = "25MB"
window_start = 99999999999
[delivery]
allow_loopback_routes = "yes"
mx_port = 70000
[log]
format = "xml"
[bogus_section]
"#;
    let expected = [
        "node.hostname is missing",
        "line 2: node.name = \"MX 1\": must be lowercase letters, digits, hyphens",
        "line 3: node.data_dir = \"\": must not be empty",
        "line 5: there is no key smtp.listne; did you mean listen?",
        "line 6: smtp.exempt_networks \"127.0.0.0/99\": is not a network such as 192.0.2.0/24",
        "line 8: limits.recipients_max must be at least 100",
        "line 9: limits.command_timeout_ms = \"soon\": is not a duration such as 90s, 4h or 5d",
        "line 10: limits.message_octets_max = \"25MB\": is not a size such as 64KiB or 25MiB",
        "line 11: limits.window_start is too large a number",
        "line 13: delivery.allow_loopback_routes must be true or false",
        "line 14: delivery.mx_port must be a port, 1 to 65535",
        "line 16: log.format = \"xml\": must be text or json",
    ];
    let found = problems(text);
    assert_eq!(found[..expected.len()], expected);
    assert!(found.last().unwrap().starts_with("line 17: there is no key bogus_section;"));
}

#[test]
fn what_is_not_toml_has_one_problem_with_its_line() {
    let found = problems("[node]\nname = \n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("line 2: not valid TOML"), "{found:?}");
}

#[test]
fn a_value_where_a_section_belongs_is_a_problem() {
    let found = problems("node = 5\nsmtp.certificates = 1\n");
    assert!(found.contains(&"line 1: node must be a section [node]".to_owned()), "{found:?}");
    let certificates = "line 2: smtp.certificates must be written [[smtp.certificates]]";
    assert!(found.contains(&certificates.to_owned()), "{found:?}");
}
