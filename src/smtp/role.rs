//! Mailboxes that a service has by convention (RFC 2142, RFC 5321 section 4.5.1), and two that this
//! one has: `support` for questions, `trouble` for what cannot wait.

use super::Address;

/// Who is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Whoever runs the mail system.
    Postmaster,
    /// Whoever hears of misuse.
    Abuse,
    /// Whoever runs the network.
    Noc,
    /// Whoever hears of weaknesses.
    Security,
    /// Whoever answers customers' questions.
    Support,
    /// Whoever is woken up.
    Trouble,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Postmaster, Self::Abuse, Self::Noc, Self::Security, Self::Support, Self::Trouble];

    /// The local part, for the metric too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postmaster => "postmaster",
            Self::Abuse => "abuse",
            Self::Noc => "noc",
            Self::Security => "security",
            Self::Support => "support",
            Self::Trouble => "trouble",
        }
    }

    /// The role that an address has by its local part, in any case (RFC 2142 section 2). A tag
    /// behind it makes another address: nobody reads `support+x`.
    pub fn of(address: &Address) -> Option<Self> {
        let local_part = address.local_part();
        Self::ALL.into_iter().find(|role| local_part.eq_ignore_ascii_case(role.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_known_by_its_name_in_any_case_and_whole() {
        for (text, expected) in [
            ("support@relay.test", Some(Role::Support)),
            ("TROUBLE@relay.test", Some(Role::Trouble)),
            ("Postmaster@relay.test", Some(Role::Postmaster)),
            ("support+x@relay.test", None),
            ("\"support\"@relay.test", None),
            ("supports@relay.test", None),
            ("user@relay.test", None),
        ] {
            assert_eq!(Role::of(&Address::parse(text, true).unwrap()), expected, "{text}");
        }
    }
}
