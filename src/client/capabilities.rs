//! What a server said it can do, from its answer to EHLO (RFC 5321 section 4.1.1.1).

use crate::smtp::Reply;

/// The extensions we use. All absent is a server that only knows HELO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// RFC 2920.
    pub(crate) pipelining: bool,
    /// RFC 1870: offered, with the largest message the server takes; 0 says nothing.
    pub(crate) size: Option<u64>,
    /// RFC 6152.
    pub(crate) eight_bit_mime: bool,
    /// RFC 6531.
    pub(crate) smtputf8: bool,
    /// RFC 3207.
    pub(crate) starttls: bool,
    /// RFC 3461.
    pub(crate) dsn: bool,
    /// RFC 2034.
    pub(crate) enhanced_status_codes: bool,
    /// RFC 9422, RCPTMAX: recipients in one transaction.
    pub(crate) recipients_max: Option<usize>,
    /// RFC 9422, MAILMAX: transactions on one connection.
    pub(crate) transactions_max: Option<u32>,
}

impl Capabilities {
    /// Read the answer to EHLO. The first line is the server's name; what we do not know, and
    /// values that make no sense, are as good as absent.
    pub(crate) fn parse(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => found.pipelining = true,
                "SIZE" => found.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                "8BITMIME" => found.eight_bit_mime = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "STARTTLS" => found.starttls = true,
                "DSN" => found.dsn = true,
                "ENHANCEDSTATUSCODES" => found.enhanced_status_codes = true,
                "LIMITS" => words.for_each(|limit| found.add_limit(limit)),
                _ => {}
            }
        }
        found
    }

    /// A limit of zero would forbid all mail; it is taken for a mistake (RFC 9422 section 5).
    fn add_limit(&mut self, limit: &str) {
        match limit.split_once('=') {
            Some((name, n)) if name.eq_ignore_ascii_case("RCPTMAX") => {
                self.recipients_max = n.parse().ok().filter(|n| *n > 0);
            }
            Some((name, n)) if name.eq_ignore_ascii_case("MAILMAX") => {
                self.transactions_max = n.parse().ok().filter(|n| *n > 0);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Capabilities {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Capabilities::parse(&Reply { code: 250, enhanced: None, lines })
    }

    #[test]
    fn keywords_are_read_in_any_case_and_strange_values_are_ignored() {
        let found = parse(&[
            "PIPELINING.example.test greets you",
            "pipelining",
            "SIZE 1000",
            "8BITMIME",
            "SMTPUTF8",
            "DSN",
            "STARTTLS",
            "ENHANCEDSTATUSCODES",
            "LIMITS RCPTMAX=7 MAILMAX=x FOO=1 rcptmax",
            "X-EXPERIMENT",
            "",
        ]);
        assert_eq!(
            found,
            Capabilities {
                pipelining: true,
                size: Some(1000),
                eight_bit_mime: true,
                smtputf8: true,
                starttls: true,
                dsn: true,
                enhanced_status_codes: true,
                recipients_max: Some(7),
                transactions_max: None,
            }
        );
    }

    #[test]
    fn a_size_without_a_number_sets_no_bound() {
        assert_eq!(parse(&["x", "SIZE"]).size, Some(0));
        assert_eq!(parse(&["x", "SIZE -5"]).size, Some(0));
        assert_eq!(parse(&["SIZE 5"]).size, None);
    }

    #[test]
    fn limits_of_zero_are_no_limits() {
        let found = parse(&["x", "LIMITS RCPTMAX=0 MAILMAX=0"]);
        assert_eq!((found.recipients_max, found.transactions_max), (None, None));
    }
}
