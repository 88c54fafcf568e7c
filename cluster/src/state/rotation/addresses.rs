//! Which addresses a host may have: such as mail can come to from anywhere, and all its own.

use std::net::IpAddr;

use super::super::names::MxName;
use super::super::{Host, Refusal, State};

pub(super) const ADDRESSES_MAX: usize = 16;

impl State {
    /// Refuse addresses that DNS must not say of the host `id`.
    pub(super) fn check_addresses(&self, id: u64, addresses: &[IpAddr]) -> Result<(), Refusal> {
        if addresses.len() > ADDRESSES_MAX {
            return Err(Refusal::invalid("a host has at most 16 addresses"));
        }
        for (at, ip) in addresses.iter().enumerate() {
            if let Some(why) = unusable(*ip) {
                return Err(Refusal::invalid(format!("no mail comes to {ip}: {why}")));
            }
            if addresses.iter().take(at).any(|other| other == ip) {
                return Err(Refusal::invalid(format!("{ip} is given twice")));
            }
            let has_it = self.hosts.iter().find(|h| h.id != id && h.addresses.contains(ip));
            if let Some(other) = has_it {
                let name = &other.name;
                return Err(Refusal::conflict(format!(
                    "{ip} is an address of host {name}, and names on two hosts must not be lost \
                     with one machine; if {name} is gone, `mxfleet cluster remove {name}` first"
                )));
            }
        }
        Ok(())
    }

    /// Whether nobody knows what DNS is to say of a name at `now_ms`: the host is not in the fleet,
    /// as when others were lost with it, or has no address.
    pub fn lacks_host(&self, row: &MxName, now_ms: u64) -> bool {
        let has_address =
            |id: u64| self.hosts.get(id).is_some_and(|host| !host.addresses.is_empty());
        row.host_at(now_ms).is_some_and(|id| !has_address(id))
    }

    /// Names that lead to no host of the fleet.
    pub fn orphaned_names(&self, now_ms: u64) -> impl Iterator<Item = &MxName> {
        self.rotation.names.iter().filter(move |row| self.lacks_host(row, now_ms))
    }

    /// Whether DNS is left as it is about a name, whatever it is to say: what it says of an orphan
    /// may still be true, and of what is new it says nothing.
    pub fn is_left_alone(&self, row: &MxName, now_ms: u64) -> bool {
        self.awaits_certificate(row, now_ms) || self.lacks_host(row, now_ms)
    }

    /// The host a name points at, if DNS is still to say the addresses that it has now.
    pub fn readdressed(&self, row: &MxName) -> Option<&Host> {
        let host = self.hosts.get(row.target?)?;
        (row.aim().is_some() && !row.is_known_to_say(&host.addresses)).then_some(host)
    }
}

/// Why nobody elsewhere can send mail to this address, if so.
fn unusable(ip: IpAddr) -> Option<String> {
    let why = match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return v6.to_ipv4_mapped().map(|v4| format!("write it as {v4}"));
        }
        _ if ip.is_unspecified() => "it is no host's",
        _ if ip.is_multicast() => "it is a group's",
        IpAddr::V4(v4) if v4.is_broadcast() => "it is every host's",
        IpAddr::V4(v4) if v4.is_link_local() => "it is good on one link only",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "it is good on one link only",
        _ => return None,
    };
    Some(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_mail_comes_to_from_anywhere_are_usable() {
        let why = |text: &str| unusable(text.parse().unwrap()).unwrap_or_default();
        for text in ["192.0.2.1", "2001:db8::1", "10.0.0.1", "fd00::1", "127.0.0.1"] {
            assert_eq!(why(text), "", "{text}");
        }
        assert_eq!(why("::ffff:192.0.2.1"), "write it as 192.0.2.1");
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(why(text).contains("it is"), "{text}");
        }
        for text in ["fe80::1", "169.254.0.1"] {
            assert_eq!(why(text), "it is good on one link only", "{text}");
        }
    }
}
