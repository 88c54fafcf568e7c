//! What DNS shall say: a pure function of the replicated state.

use std::fmt::Write as _;
use std::net::IpAddr;

use mxfleet_cluster::State;

/// One record of an MX name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The MX name.
    pub name: String,
    /// Its time to live, in seconds.
    pub ttl_s: u32,
    /// An address of the host it points at.
    pub address: IpAddr,
}

/// The records of all MX names at `now_ms`, in order.
pub fn records(state: &State, now_ms: u64) -> Vec<Record> {
    let ttl = state.ttl();
    let mut records = Vec::new();
    for row in state.names() {
        let Some((host, ttl_s)) = row.wanted(now_ms, ttl) else { continue };
        let addresses = state.host(host).map(|host| host.addresses.as_slice()).unwrap_or_default();
        let record = |address: &IpAddr| Record { name: row.name.clone(), ttl_s, address: *address };
        records.extend(addresses.iter().map(record));
    }
    records.sort_unstable();
    records.dedup();
    records
}

/// The same as a zone file, to be included in the service's zone.
pub fn zone_file(zone: &str, records: &[Record]) -> String {
    let mut text = format!("$ORIGIN {zone}.\n");
    let label = |name: &str| match name.strip_suffix(zone).and_then(|l| l.strip_suffix('.')) {
        Some(label) => label.to_owned(),
        None => format!("{name}."),
    };
    let width = records.iter().map(|record| label(&record.name).len()).max().unwrap_or_default();
    for record in records {
        let kind = if record.address.is_ipv4() { "A" } else { "AAAA" };
        let (label, ttl_s, address) = (label(&record.name), record.ttl_s, record.address);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:width$} {ttl_s} IN {kind} {address}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_file_is_what_name_servers_read() {
        let record = |name: &str, address: &str| Record {
            name: name.to_owned(),
            ttl_s: 60,
            address: address.parse().unwrap(),
        };
        let records =
            [record("mx-a.relay.test", "192.0.2.1"), record("mx-bb.relay.test", "2001:db8::1")];
        assert_eq!(
            zone_file("relay.test", &records),
            "$ORIGIN relay.test.\nmx-a  60 IN A 192.0.2.1\nmx-bb 60 IN AAAA 2001:db8::1\n"
        );
    }
}
