//! Reading a TOML file so that every problem is found at once, each with its line.

use std::cell::RefCell;
use std::fmt;

use toml_edit::{Document, Item, TableLike};

/// One thing that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; 0 when something is missing and has no line.
    pub line: usize,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.text),
            line => write!(f, "line {line}: {}", self.text),
        }
    }
}

/// A parsed file that collects problems while its values are taken out.
pub(super) struct Source<'t> {
    text: &'t str,
    document: Document<&'t str>,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Source<'t> {
    /// Parse the text; a file that is not TOML has exactly one problem.
    pub(super) fn parse(text: &'t str) -> Result<Self, Problem> {
        match Document::parse(text) {
            Ok(document) => Ok(Self { text, document, problems: RefCell::default() }),
            Err(error) => {
                let line = error.span().map_or(0, |span| line_of(text, span.start));
                Err(Problem { line, text: format!("not valid TOML: {}", error.message()) })
            }
        }
    }

    /// The top level; `known` are the sections there are.
    pub(super) fn root(&self) -> Section<'_> {
        Section { source: self, table: Some(self.document.as_table()), path: String::new() }
    }

    /// Report a problem.
    pub(super) fn problem(&self, line: usize, text: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { line, text: text.into() });
    }

    /// All problems, in order of line.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

/// One table of the file, or its absence.
#[derive(Clone)]
pub(super) struct Section<'s> {
    source: &'s Source<'s>,
    table: Option<&'s dyn TableLike>,
    path: String,
}

/// A value with where it stands.
pub(super) struct Found<'s> {
    item: &'s Item,
    path: String,
    /// Line of the key.
    pub(super) line: usize,
}

impl<'s> Section<'s> {
    /// Report every key that is not in `known`, with the nearest name there is.
    pub(super) fn only(&self, known: &[&str]) {
        let Some(table) = self.table else { return };
        for (key, item) in table.iter() {
            if known.contains(&key) {
                continue;
            }
            let line = self.line(key, item);
            let full = join(&self.path, key);
            let nearest = known
                .iter()
                .map(|name| (strsim::damerau_levenshtein(name, key), name))
                .filter(|(distance, _)| *distance <= 1 + key.len() / 3)
                .min_by_key(|(distance, _)| *distance);
            let hint = match nearest {
                Some((_, name)) => format!("; did you mean {name}?"),
                None => format!("; there is: {}", known.join(", ")),
            };
            self.source.problem(line, format!("there is no key {full}{hint}"));
        }
    }

    /// The table `key` inside this one; an absent one reads as empty.
    pub(super) fn section(&self, key: &str) -> Self {
        let path = join(&self.path, key);
        let item = self.table.and_then(|table| table.get(key));
        let table = item.and_then(Item::as_table_like);
        if let (Some(item), None) = (item, table) {
            self.source.problem(self.line(key, item), format!("{path} must be a section [{path}]"));
        }
        Section { source: self.source, table, path }
    }

    /// The tables of `[[key]]`.
    pub(super) fn sections(&self, key: &str) -> Vec<Self> {
        let path = join(&self.path, key);
        let Some(item) = self.table.and_then(|table| table.get(key)) else { return Vec::new() };
        if let Some(tables) = item.as_array_of_tables() {
            let section = |table| Section {
                source: self.source,
                table: Some(table as &dyn TableLike),
                path: path.clone(),
            };
            return tables.iter().map(section).collect();
        }
        self.source.problem(self.line(key, item), format!("{path} must be written [[{path}]]"));
        Vec::new()
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Found<'s>> {
        let item = self.table?.get(key)?;
        Some(Found { item, path: join(&self.path, key), line: self.line(key, item) })
    }

    /// A text read by `parse`; what `parse` says is the problem.
    pub(super) fn text<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let found = self.get(key)?;
        self.parsed(&found, found.item, &parse)
    }

    /// As [`Section::text`], and a problem when the key is missing.
    pub(super) fn required<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.get(key).is_none() {
            let path = join(&self.path, key);
            self.source.problem(0, format!("{path} is missing"));
        }
        self.text(key, parse)
    }

    /// A list of texts.
    pub(super) fn texts<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let found = self.get(key)?;
        let Some(array) = found.item.as_array() else {
            self.problem(&found, "must be a list of texts, for example [\"a\", \"b\"]");
            return None;
        };
        let mut values = Vec::new();
        for value in array {
            let Some(text) = value.as_str() else {
                self.problem(&found, "must be a list of texts, for example [\"a\", \"b\"]");
                return None;
            };
            match parse(text) {
                Ok(value) => values.push(value),
                Err(why) => self.problem(&found, &format!("{text:?}: {why}")),
            }
        }
        Some(values)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let found = self.get(key)?;
        let flag = found.item.as_bool();
        if flag.is_none() {
            self.problem(&found, "must be true or false");
        }
        flag
    }

    /// A whole number, or a text that `parse` turns into one.
    pub(super) fn number(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<u64, String>,
    ) -> Option<u64> {
        let found = self.get(key)?;
        match found.item.as_integer() {
            Some(number) => u64::try_from(number)
                .inspect_err(|_| self.problem(&found, "must not be negative"))
                .ok(),
            None => self.parsed(&found, found.item, &parse),
        }
    }

    /// Report a problem with a value.
    pub(super) fn problem(&self, found: &Found<'_>, text: &str) {
        self.source.problem(found.line, format!("{} {text}", found.path));
    }

    fn parsed<T>(
        &self,
        found: &Found<'_>,
        item: &Item,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(text) = item.as_str() else {
            self.problem(found, "must be a text in quotes");
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problem(found, &format!("= {text:?}: {why}"));
                None
            }
        }
    }

    fn line(&self, key: &str, item: &Item) -> usize {
        let key_span = self.table.and_then(|table| table.key(key)).and_then(|key| key.span());
        key_span.or_else(|| item.span()).map_or(0, |span| line_of(self.source.text, span.start))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}
