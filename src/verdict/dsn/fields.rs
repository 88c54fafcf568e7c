//! The machine-readable part of a notification: blocks of fields (RFC 3464 section 2.1).

use crate::smtp::{Enhanced, xtext};

/// The fields about one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Lower-case name and unfolded value.
    fields: Vec<(String, String)>,
}

/// The blocks about recipients, without the one about the message.
pub(super) fn parse(text: &str) -> Vec<Block> {
    let mut blocks = vec![Block::default()];
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            blocks.push(Block::default());
            continue;
        }
        let Some(block) = blocks.last_mut() else { continue };
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = block.fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            block.fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    blocks.retain(|block| block.get("action").is_some() && block.recipient().is_some());
    blocks
}

impl Block {
    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The address the message was for in the end, or else the one it was first for.
    pub(super) fn recipient(&self) -> Option<String> {
        let field = self.get("final-recipient").or_else(|| self.get("original-recipient"))?;
        Some(address(field)).filter(|address| !address.is_empty())
    }

    /// Whether the address the message was first for is another: an alias or a forward.
    pub(super) fn is_redirected(&self) -> bool {
        match (self.get("original-recipient"), self.get("final-recipient")) {
            (Some(original), Some(last)) => !same(&address(original), &address(last)),
            _ => false,
        }
    }

    /// The action, in lower case.
    pub(super) fn action(&self) -> String {
        let action = self.get("action").unwrap_or_default();
        let word = action.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty());
        word.unwrap_or_default().to_ascii_lowercase()
    }

    /// The status, without the comment that may follow it.
    pub(super) fn status(&self) -> Option<Enhanced> {
        Enhanced::parse_prefix(self.get("status")?).map(|(status, _)| status)
    }

    /// The diagnostic, without its type.
    pub(super) fn diagnostic(&self) -> Option<String> {
        let value = self.get("diagnostic-code")?;
        let text = match value.split_once(';') {
            Some((kind, text)) if kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') => {
                text
            }
            _ => value,
        };
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

/// `rfc822; <user@domain>` without type, brackets and source route.
fn address(field: &str) -> String {
    let mut rest = field;
    // Some write the type twice.
    while let Some((kind, after)) = rest.split_once(';') {
        if !matches!(kind.trim().to_ascii_lowercase().as_str(), "rfc822" | "utf-8") {
            break;
        }
        rest = after;
    }
    let rest = rest.trim().trim_start_matches('<');
    let rest = rest.split(['>', ' ', '\t']).next().unwrap_or_default();
    match rest.strip_prefix('@').and_then(|route| route.split_once(':')) {
        Some((_, address)) => address.to_owned(),
        None => rest.to_owned(),
    }
}

/// The same address, one of them perhaps in xtext.
fn same(a: &str, b: &str) -> bool {
    let plain = |text: &str| xtext::decode(text).unwrap_or_else(|| text.to_owned());
    a.eq_ignore_ascii_case(b)
        || plain(a).eq_ignore_ascii_case(b)
        || a.eq_ignore_ascii_case(&plain(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_with_folded_lines_and_any_case() {
        let text = "Reporting-MTA: dns; x\nArrival-Date: now\n\n\
            final-recipient: RFC822; <A@b.test>\nACTION: Failed (really)\n\
            Status: 5.1.1 (bad)\nDiagnostic-Code: smtp; 550 5.1.1\n  no\n\n";
        let blocks = parse(text);
        assert_eq!(blocks.len(), 1);
        let block = &blocks[0];
        assert_eq!(block.recipient().as_deref(), Some("A@b.test"));
        assert_eq!(block.action(), "failed");
        assert_eq!(block.status(), Some(Enhanced(5, 1, 1)));
        assert_eq!(block.diagnostic().as_deref(), Some("550 5.1.1 no"));
        assert!(!block.is_redirected());
    }

    #[test]
    fn addresses_come_in_many_dresses() {
        for (field, expected) in [
            ("rfc822;a@b.test", "a@b.test"),
            ("rfc822; rfc822;a@b.test", "a@b.test"),
            ("utf-8; jürgen@b.test", "jürgen@b.test"),
            ("<a@b.test>", "a@b.test"),
            ("rfc822; @x.test,@y.test:a@b.test", "a@b.test"),
            ("rfc822; a@b.test (comment)", "a@b.test"),
            ("", ""),
        ] {
            assert_eq!(address(field), expected);
        }
        assert!(same("a+2Bb@c.test", "A+b@c.test"));
        assert!(!same("a@b.test", "c@b.test"));
    }
}
