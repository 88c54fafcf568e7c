//! The phrases that decide, read from `patterns.txt`: see there for what a line means.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::words::{ADDRESS, fold};

/// The phrases of `patterns.txt`.
pub(crate) static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the text is a constant that every test reads")]
    Patterns::parse(include_str!("patterns.txt")).expect("patterns.txt is well-formed")
});

/// `..`: so many words may stand in between.
const GAP_WORDS: usize = 5;

/// What is wrong in `patterns.txt`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(crate) struct PatternError {
    line: usize,
    why: &'static str,
}

/// The lists by which a text is judged.
#[derive(Debug)]
pub(crate) struct Patterns {
    /// Phrases that are taken out before the vetoes are looked for.
    pub(crate) harmless: List,
    /// Phrases that say the refusal is about something else.
    pub(crate) veto: List,
    /// Phrases that speak to the client about the message, taken out before doubts are looked for.
    pub(crate) addressed: List,
    /// Phrases that may make the words about a mailbox words about the client's own.
    pub(crate) doubt: List,
    /// Phrases that say the mailbox does not exist.
    pub(crate) unknown_user: List,
}

/// Phrases, by the first letter of their first word.
#[derive(Debug, Default)]
pub(crate) struct List {
    by_letter: HashMap<char, Vec<Phrase>>,
    /// Those that may begin in the middle of a word.
    anywhere: Vec<Phrase>,
}

#[derive(Debug, Clone)]
struct Phrase {
    /// As the file has it.
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Word(String),
    Prefix(String),
    /// All of these inside, in this order.
    Inside(Vec<String>),
    /// One of several phrases.
    OneOf(Vec<Vec<Part>>),
    /// At most so many words, all in one sentence.
    Gap(usize),
}

impl Patterns {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let mut sets: HashMap<&str, Vec<Vec<Part>>> = HashMap::new();
        let mut lists: HashMap<&str, List> = HashMap::new();
        let mut current = "";
        for (number, line) in text.lines().enumerate() {
            let error = |why| PatternError { line: number + 1, why };
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                current = name;
                continue;
            }
            for phrase in line.split(',').map(str::trim).filter(|phrase| !phrase.is_empty()) {
                let parts = parse_parts(phrase, &sets).map_err(error)?;
                match current {
                    "harmless" | "veto" | "addressed" | "doubt" | "unknown_user" => {
                        lists.entry(current).or_default().add(phrase, parts);
                    }
                    _ => sets.entry(current).or_default().push(parts),
                }
            }
        }
        let mut take = |name| lists.remove(name).unwrap_or_default();
        Ok(Self {
            harmless: take("harmless"),
            veto: take("veto"),
            addressed: take("addressed"),
            doubt: take("doubt"),
            unknown_user: take("unknown_user"),
        })
    }
}

fn parse_parts(
    line: &str,
    sets: &HashMap<&str, Vec<Vec<Part>>>,
) -> Result<Vec<Part>, &'static str> {
    let part = |word: &str| {
        if word == ".." {
            return Ok(Part::Gap(GAP_WORDS));
        }
        if let Some(count) = word.strip_prefix('~') {
            return count.parse().map(Part::Gap).map_err(|_| "~ wants a number");
        }
        if let Some(name) = word.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
            return sets.get(name).cloned().map(Part::OneOf).ok_or("no such set above this line");
        }
        if word == ADDRESS {
            return Ok(Part::Word(word.to_owned()));
        }
        let bare = fold(word.trim_matches('*'));
        let pieces: Vec<String> = bare.split('*').map(str::to_owned).collect();
        if !pieces.iter().all(|p| !p.is_empty() && p.chars().all(char::is_alphanumeric)) {
            return Err("a word has letters and digits only");
        }
        match (word.starts_with('*'), word.ends_with('*'), pieces.len()) {
            (false, false, 1) => Ok(Part::Word(bare)),
            (false, true, 1) => Ok(Part::Prefix(bare)),
            (true, _, _) => Ok(Part::Inside(pieces)),
            (false, ..) => Err("a word with a * inside begins with one"),
        }
    };
    line.split_whitespace().map(part).collect()
}

impl List {
    /// The first phrase found in `words`, as the file has it.
    pub(crate) fn find(&self, words: &[String]) -> Option<&str> {
        (0..words.len()).find_map(|at| self.find_at(words, at)).map(|(phrase, _)| &*phrase.source)
    }

    /// `words` without the phrases of this list.
    pub(crate) fn remove_from(&self, words: &[String]) -> Vec<String> {
        let mut kept = Vec::with_capacity(words.len());
        let mut at = 0;
        while at < words.len() {
            match self.find_at(words, at) {
                Some((_, end)) if end > at => at = end,
                _ => {
                    kept.push(words[at].clone());
                    at += 1;
                }
            }
        }
        kept
    }

    /// The phrase that begins at a word, and the index after it.
    fn find_at(&self, words: &[String], at: usize) -> Option<(&Phrase, usize)> {
        let first = words[at].chars().next()?;
        // A byte that was not UTF-8 could have been any letter.
        let candidates: &mut dyn Iterator<Item = &Phrase> = if first == '\u{fffd}' {
            &mut self.by_letter.values().flatten().chain(&self.anywhere)
        } else {
            &mut self.by_letter.get(&first).into_iter().flatten().chain(&self.anywhere)
        };
        for phrase in candidates {
            let mut end = 0;
            let mut accept = |after| {
                end = after;
                true
            };
            if matches(&phrase.parts, words, at, &mut accept) {
                return Some((phrase, end));
            }
        }
        None
    }

    /// A phrase that begins with a set becomes one phrase for each of its members, so that all
    /// are found by their first letter.
    fn add(&mut self, source: &str, parts: Vec<Part>) {
        if let Some((Part::OneOf(members), rest)) = parts.split_first() {
            for member in members {
                self.add(source, [member, rest].concat());
            }
            return;
        }
        let list = match parts.first() {
            Some(Part::Word(word) | Part::Prefix(word)) => {
                self.by_letter.entry(word.chars().next().unwrap_or_default()).or_default()
            }
            _ => &mut self.anywhere,
        };
        list.push(Phrase { source: source.to_owned(), parts });
    }
}

/// Whether `parts` match from `at` on, and `then` accepts where they end.
fn matches(
    parts: &[Part],
    words: &[String],
    at: usize,
    then: &mut dyn FnMut(usize) -> bool,
) -> bool {
    let Some((part, rest)) = parts.split_first() else { return then(at) };
    match part {
        Part::Gap(most) => {
            let sentence = words[at..].iter().take_while(|word| !word.is_empty()).count();
            (0..=sentence.min(*most)).any(|gap| matches(rest, words, at + gap, then))
        }
        Part::OneOf(members) => members
            .iter()
            .any(|member| matches(member, words, at, &mut |end| matches(rest, words, end, then))),
        Part::Word(text) => {
            words.get(at).is_some_and(|word| starts_with(word, text, true))
                && matches(rest, words, at + 1, then)
        }
        Part::Prefix(text) => {
            words.get(at).is_some_and(|word| starts_with(word, text, false))
                && matches(rest, words, at + 1, then)
        }
        Part::Inside(pieces) => {
            words.get(at).is_some_and(|word| has_inside(word, pieces))
                && matches(rest, words, at + 1, then)
        }
    }
}

/// Whether a word has these pieces inside, one behind the other.
fn has_inside(word: &str, pieces: &[String]) -> bool {
    let mut rest = word;
    pieces.iter().all(|piece| match rest.split_once(&**piece) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// Compare letter by letter; a byte of the text that was not UTF-8 fits any letter.
fn starts_with(word: &str, text: &str, whole: bool) -> bool {
    let mut letters = word.chars();
    let same = text.chars().all(|wanted| {
        letters.next().is_some_and(|letter| letter == wanted || letter == '\u{fffd}')
    });
    same && (!whole || letters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::words::words;

    fn finds(file: &str, text: &str) -> bool {
        Patterns::parse(file).unwrap().veto.find(&words(text).unwrap()).is_some()
    }

    #[test]
    fn a_phrase_is_words_prefixes_gaps_and_sets() {
        let file = "[noun]\nuser, mail box # a comment\n[veto]\n<noun> .. gone\nspam*\n*户*不存在*";
        for text in ["User gone", "the mail box is really gone", "SPAMMY", "此用户不存在了"]
        {
            assert!(finds(file, text), "{text}");
        }
        for text in ["gone user", "user. gone", "user a b c d e f gone", "antispam", "mail gone"] {
            assert!(!finds(file, text), "{text}");
        }
    }

    #[test]
    fn a_broken_letter_fits_any() {
        assert!(finds("[veto]\nempfänger unbekannt", "Empf\u{fffd}nger unbekannt"));
        assert!(finds("[veto]\nüber voll", "\u{fffd}ber voll"));
    }

    #[test]
    fn harmless_phrases_are_taken_out() {
        let patterns = Patterns::parse("[harmless]\nrelay table").unwrap();
        let words = words("in relay table of relay hosts").unwrap();
        assert_eq!(patterns.harmless.remove_from(&words), ["in", "of", "relay", "hosts"]);
    }

    #[test]
    fn a_mistake_in_the_file_is_named_with_its_line() {
        let fails = |file| Patterns::parse(file).unwrap_err().to_string();
        assert_eq!(fails("[veto]\nok\n<nope> x"), "line 3: no such set above this line");
        assert_eq!(fails("[veto]\na-b"), "line 2: a word has letters and digits only");
        assert_eq!(fails("[veto]\na ~x"), "line 2: ~ wants a number");
        assert_eq!(fails("[veto]\na*b"), "line 2: a word with a * inside begins with one");
    }
}
