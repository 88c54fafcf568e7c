//! The words of a reply's text, fit to be compared: lower case, without accents, without
//! addresses, host names, URLs and numbers.
//!
//! Names are left out so that a user called `spam@` or a domain `blocked.example` can neither
//! make nor unmake a verdict. An empty word stands for the end of a sentence.

/// More words than a sane server writes; a longer text is not judged at all.
pub(crate) const WORDS_MAX: usize = 600;

/// Stands for an address with which a text begins. Other addresses leave no word behind: whose they
/// are is not known.
pub(crate) const ADDRESS: &str = "@";

/// Split a text into words; `None` if there are too many to judge.
pub(crate) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Words(Vec::new());
    for chunk in text.split(is_separator).filter(|chunk| !chunk.is_empty()) {
        words.add_chunk(chunk);
        if words.0.len() > WORDS_MAX {
            return None;
        }
    }
    Some(words.0)
}

/// What stands between chunks that are looked at as a whole.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "<>()[]{}\"`|*,“”«»".contains(c)
}

/// What ends a sentence, at the end of a chunk.
fn ends_sentence(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | ';' | '。' | '！' | '？' | '；' | '،')
}

struct Words(Vec<String>);

impl Words {
    fn add_chunk(&mut self, chunk: &str) {
        if chunk.contains("://") || chunk.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("www.")) {
            return self.end_sentence_after(chunk);
        }
        for (number, sentence) in chunk.split(ends_sentence_inside).enumerate() {
            if number > 0 {
                self.end_sentence();
            }
            for piece in sentence.split_inclusive([':', '=', '/']) {
                self.add_piece(piece.trim_matches(|c: char| !is_word(c) && c != '@'));
                // `relay=` labels a value and speaks of no relaying.
                if piece.ends_with('=')
                    && let Some(last) = self.0.last_mut()
                {
                    last.push('=');
                }
            }
        }
        self.end_sentence_after(chunk);
    }

    fn add_piece(&mut self, piece: &str) {
        if piece.contains('@') && self.0.is_empty() {
            return self.0.push(ADDRESS.to_owned());
        }
        if piece.contains('@') || is_name_or_number(piece) {
            return;
        }
        for (number, label) in piece.split('.').enumerate() {
            if number > 0 {
                self.end_sentence();
            }
            for word in label.split(|c: char| !is_word(c)) {
                self.add_word(word);
            }
        }
    }

    fn add_word(&mut self, word: &str) {
        let word = fold(word);
        // "e-mail" and "email" are one word, and so are words that begin with it.
        if word.starts_with("mail") && self.0.last().is_some_and(|last| last == "e") {
            self.0.pop();
            return self.0.push(format!("e{word}"));
        }
        if !word.is_empty() && !word.bytes().all(|b| b.is_ascii_digit()) {
            self.0.push(word);
        }
    }

    fn end_sentence_after(&mut self, chunk: &str) {
        if chunk.ends_with(ends_sentence) {
            self.end_sentence();
        }
    }

    fn end_sentence(&mut self) {
        if self.0.last().is_some_and(|last| !last.is_empty()) {
            self.0.push(String::new());
        }
    }
}

/// Marks that end a sentence wherever they stand, unlike the dot, which also joins names.
fn ends_sentence_inside(c: char) -> bool {
    ends_sentence(c) && c != '.'
}

/// An apostrophe belongs to its word (`doesn't`), and so does a byte that was not UTF-8.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '\'' | '’' | '´' | '\u{fffd}') || is_mark(c)
}

/// Combining diacritical marks, as decomposed accents have them.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// A host name, an IP address, a status code, a version: labels joined by dots. Two sentences
/// without a space between them (`rejected.User`) are not one.
fn is_name_or_number(piece: &str) -> bool {
    let labels: Vec<&str> = piece.split('.').collect();
    let label_ok = |label: &&str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let new_sentence = |pair: &[&str]| {
        let mut next = pair[1].chars();
        pair[0].ends_with(|c: char| c.is_ascii_lowercase())
            && next.next().is_some_and(|c| c.is_ascii_uppercase())
            && next.next().is_some_and(|c| c.is_ascii_lowercase())
    };
    let camel = |label: &&str| {
        label.bytes().any(|b| b.is_ascii_lowercase())
            && label.bytes().skip(1).any(|b| b.is_ascii_uppercase())
    };
    labels.len() > 1
        && labels.iter().all(label_ok)
        && !labels.windows(2).any(new_sentence)
        && !labels.iter().any(camel)
}

/// Lower case, without apostrophes and accents.
pub(crate) fn fold(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    for c in word.chars().filter(|c| !is_mark(*c)) {
        for c in c.to_lowercase() {
            match c {
                '\'' | '’' | '´' => {}
                'ß' => folded.push_str("ss"),
                'æ' => folded.push_str("ae"),
                'œ' => folded.push_str("oe"),
                c if is_mark(c) => {}
                c => folded.push(plain(c)),
            }
        }
    }
    folded
}

/// The Latin letter without its accent.
fn plain(c: char) -> char {
    match c {
        'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'č' => 'c',
        'ď' | 'đ' => 'd',
        'è' | 'é' | 'ê' | 'ë' | 'ē' | 'ę' | 'ě' => 'e',
        'ğ' => 'g',
        'ì' | 'í' | 'î' | 'ï' | 'ī' | 'ı' => 'i',
        'ł' => 'l',
        'ñ' | 'ń' | 'ň' => 'n',
        'ò' | 'ó' | 'ô' | 'õ' | 'ö' | 'ø' | 'ő' => 'o',
        'ř' => 'r',
        'ś' | 'š' | 'ş' | 'ș' => 's',
        'ť' | 'ț' | 'ţ' => 't',
        'ù' | 'ú' | 'û' | 'ü' | 'ů' | 'ű' | 'ū' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> String {
        let words = words(text).unwrap();
        words.iter().map(|w| if w.is_empty() { "|" } else { w }).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_numbers_and_links_are_left_out() {
        assert_eq!(joined("<spam@blocked.example>: User unknown"), "@ user unknown");
        assert_eq!(joined("host mx.spam.test[192.0.2.1] said: 550 5.1.1 no"), "host said no");
        assert_eq!(
            joined("no. See https://spam.test/blocked?x=full for more"),
            "no | see for more"
        );
        assert_eq!(joined("RCPT TO:<a@b.test>User"), "rcpt to user");
        assert_eq!(joined("a@b.test:user not found"), "@ user not found");
    }

    #[test]
    fn sentences_are_kept_apart() {
        assert_eq!(joined("<a@b.test>... Unknown; error"), "@ | unknown | error");
        assert_eq!(joined("rejected.User unknown"), "rejected | user unknown");
        assert_eq!(joined("rejected;User unknown"), "rejected | user unknown");
        assert_eq!(joined("?no such user"), "no such user");
        assert_eq!(
            joined("RESOLVER.ADR.RecipNotFound; not found"),
            "resolver | adr | recipnotfound | not found"
        );
    }

    #[test]
    fn spelling_is_evened_out() {
        assert_eq!(joined("The E-Mail doesn’t exist"), "the email doesnt exist");
        assert_eq!(
            joined("Empfänger n'existe; ADRESSE INCONNUE À"),
            "empfanger nexiste | adresse inconnue a"
        );
        assert_eq!(joined("usua\u{301}rio no_such_user"), "usuario no such user");
    }

    #[test]
    fn a_text_without_end_is_not_judged() {
        assert_eq!(words(&"word ".repeat(WORDS_MAX + 1)), None);
    }
}
