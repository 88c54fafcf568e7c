//! What DNS shall say: a pure function of the replicated state.

use std::fmt::Write as _;
use std::net::IpAddr;

use data_encoding::HEXLOWER;
use mxfleet_cluster::State;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordData {
    /// An address of the host the name points at.
    Address(IpAddr),
    /// SHA-256 of a public key that the name may be found with: TLSA 3 1 1 (RFC 7671 section 5.1).
    Key([u8; 32]),
}

/// One record of an MX name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The MX name, or what its TLSA records belong to.
    pub name: String,
    /// Its time to live, in seconds.
    pub ttl_s: u32,
    /// What it says.
    pub data: RecordData,
}

/// Preferences of MX records: the first name's, and how much each further one adds.
const PREFERENCE_STEP: u16 = 10;

const TLSA_PREFIX: &str = "_25._tcp.";

/// The preferences of a customer's names in MX records, in order.
pub fn preferences() -> impl Iterator<Item = u16> {
    (1..=u16::MAX).map(|place| place.saturating_mul(PREFERENCE_STEP))
}

/// Where the TLSA records of an MX name are (RFC 7672 section 2.2.3).
pub fn tlsa_owner(name: &str) -> String {
    format!("{TLSA_PREFIX}{name}")
}

/// The MX name that records of this owner belong to.
pub fn mx_name_of(owner: &str) -> &str {
    owner.strip_prefix(TLSA_PREFIX).unwrap_or(owner)
}

/// The records of all MX names at `now_ms`, in order.
pub fn records(state: &State, now_ms: u64) -> Vec<Record> {
    let ttl = state.ttl();
    let with_keys = state.settings().get("rotation.tlsa") == Some("publish");
    let mut records = Vec::new();
    for row in state.names() {
        let Some((host, ttl_s)) = row.wanted(now_ms, ttl) else { continue };
        if state.is_left_alone(row, now_ms) {
            continue;
        }
        let addresses = state.host(host).map(|host| host.addresses.as_slice()).unwrap_or_default();
        let record = |address: &IpAddr| {
            let data = RecordData::Address(*address);
            Record { name: row.name.clone(), ttl_s, data }
        };
        records.extend(addresses.iter().map(record));
        if with_keys {
            let keys = state.keys_of(&row.name, now_ms).into_iter();
            records.extend(keys.map(|key_hash| Record {
                name: tlsa_owner(&row.name),
                ttl_s,
                data: RecordData::Key(key_hash),
            }));
        }
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
        let data = match &record.data {
            RecordData::Address(address @ IpAddr::V4(_)) => format!("A {address}"),
            RecordData::Address(address @ IpAddr::V6(_)) => format!("AAAA {address}"),
            RecordData::Key(hash) => format!("TLSA 3 1 1 {}", HEXLOWER.encode(hash)),
        };
        let (label, ttl_s) = (label(&record.name), record.ttl_s);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:width$} {ttl_s} IN {data}");
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
            data: RecordData::Address(address.parse().unwrap()),
        };
        let records =
            [record("mx-a.relay.test", "192.0.2.1"), record("mx-bb.relay.test", "2001:db8::1")];
        assert_eq!(
            zone_file("relay.test", &records),
            "$ORIGIN relay.test.\nmx-a  60 IN A 192.0.2.1\nmx-bb 60 IN AAAA 2001:db8::1\n"
        );
        let name = tlsa_owner("mx-a.relay.test");
        let key = Record { name, ttl_s: 60, data: RecordData::Key([0xab; 32]) };
        assert_eq!(
            zone_file("relay.test", &[key]),
            format!("$ORIGIN relay.test.\n_25._tcp.mx-a 60 IN TLSA 3 1 1 {}\n", "ab".repeat(32))
        );
    }
}
