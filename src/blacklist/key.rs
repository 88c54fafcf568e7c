//! The form of an address that rejections are counted under.

use unicode_normalization::UnicodeNormalization as _;

use crate::smtp::Address;

/// The domain as lowercase A-label, the local part in NFC and case-folded; nothing is stripped:
/// `a+b` and `a` are two addresses. Quotes that need not be there are not: `"a"` is `a`.
pub fn key(address: &Address) -> String {
    let local = &*address.plain_local_part();
    let mut key = String::with_capacity(local.len() + 1 + address.domain().len());
    if local.is_ascii() {
        key.push_str(local);
        key.make_ascii_lowercase();
    } else {
        // To upper case and back is Unicode's full folding for what can be in an address: `ß` and
        // `SS` meet, and a final sigma is a sigma.
        let folded = local.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        key.extend(folded.nfc());
    }
    key.push('@');
    key.push_str(address.domain());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_mailbox_have_one_key() {
        for (text, expected) in [
            ("Jane.Doe+Tag@EXAMPLE.test", "jane.doe+tag@example.test"),
            ("JÜRGEN@Bücher.example", "jürgen@xn--bcher-kva.example"),
            ("ju\u{308}rgen@bücher.example", "jürgen@xn--bcher-kva.example"),
            ("STRASSE-ß@a.test", "strasse-ss@a.test"),
            ("ΟΔΟΣ@a.test", "οδοσ@a.test"),
            ("οδος@a.test", "οδοσ@a.test"),
            ("\"Jane.Doe\"@a.test", "jane.doe@a.test"),
            (r#""j\ane"@a.test"#, "jane@a.test"),
            (r#""jane\ doe"@a.test"#, "\"jane doe\"@a.test"),
            ("\"jane..doe\"@a.test", "\"jane..doe\"@a.test"),
            (r#""a\"\\b"@a.test"#, r#""a\"\\b"@a.test"#),
            ("\"\"@a.test", "\"\"@a.test"),
        ] {
            assert_eq!(key(&Address::parse(text, true).unwrap()), expected, "{text}");
        }
    }
}
