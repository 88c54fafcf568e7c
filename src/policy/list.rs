//! A list of recipients as a customer writes it: one a line, exact or with `*` for anything.
//!
//! ```text
//! # Whoever works here
//! jane.doe
//! bob@acme.test
//! sales-*
//! ```
//!
//! A line is a local part, or a whole address of the domain. `*` or `*@` is everybody. Empty lines
//! and those that begin with `#` say nothing. An address with a tag (`jane+news`) is another one;
//! `jane+*` or `*+*` are patterns for it.

use crate::blacklist;
use crate::smtp::Address;
use crate::smtp::address::domain_to_ascii;

/// What a line says; `None` if it says nothing. The entry is the local part in the form that is
/// compared: NFC and case-folded.
pub fn entry(domain: &str, line: &str) -> Option<Result<String, String>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(read(domain, line).map_err(|why| format!("{}: {why}", line.escape_debug())))
}

fn read(domain: &str, text: &str) -> Result<String, String> {
    let local = match text.rsplit_once('@') {
        None | Some((_, "")) => text.trim_end_matches('@'),
        Some((local, of)) => {
            let is_ours = domain_to_ascii(of).is_ok_and(|of| *of == *domain);
            if !is_ours {
                return Err(format!("is no recipient of {domain}"));
            }
            local
        }
    };
    let address = Address::parse(&format!("{local}@{domain}"), true);
    let mut key = blacklist::key(&address.map_err(|why| why.to_string())?);
    key.truncate(key.len() - domain.len() - 1);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_local_part_an_address_or_a_pattern() {
        for (line, expected) in [
            ("jane", "jane"),
            (" Jane.Doe@ACME.test\r", "jane.doe"),
            ("JÜRGEN@acme.test", "jürgen"),
            ("*", "*"),
            ("*@", "*"),
            ("*@acme.test", "*"),
            ("Sales-*", "sales-*"),
            ("\"a@b\"@acme.test", "\"a@b\""),
        ] {
            assert_eq!(entry("acme.test", line), Some(Ok(expected.to_owned())), "{line}");
        }
        for line in ["", "  ", "# jane", "\t#"] {
            assert_eq!(entry("acme.test", line), None, "{line:?}");
        }
        for line in ["jane@other.test", "ja ne", "@", "@acme.test", "a..b", "a@b@acme.test"] {
            assert!(entry("acme.test", line).unwrap().is_err(), "{line}");
        }
    }
}
