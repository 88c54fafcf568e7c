//! xtext: how ORCPT and ENVID carry any text as one word (RFC 3461 section 4).

/// Decode xtext (RFC 3461 section 4). `None` if it is not xtext, or if what it hides is not
/// printable ASCII: then it had better stay encoded.
pub fn decode(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b'+', [high, low, after @ ..]) => (16 * hex(*high)? + hex(*low)?, after),
            (b'+' | b'=', _) => return None,
            (byte, after) => (*byte, after),
        };
        if !(b' '..=b'~').contains(&byte) {
            return None;
        }
        decoded.push(char::from(byte));
        rest = after;
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_decoded_only_to_what_can_be_shown() {
        assert_eq!(decode("a+2Bb+3Dc").as_deref(), Some("a+b=c"));
        for bad in ["a+0D+0A", "a+", "a+2", "a+2b", "a=b", "a+C3+A4", "ä"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
