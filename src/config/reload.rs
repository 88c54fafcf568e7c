//! What differs between two configuration files, key by key, so that an operator sees what a
//! reload has changed.

use std::collections::BTreeMap;
use std::fmt;

use toml_edit::{Document, Item, Value};

/// Keys whose changes are in force at once; all others wait for the next start.
const AT_ONCE: &[&str] = &["smtp.certificates"];

/// A key with two different values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key with its section.
    pub key: String,
    /// What it was, as written; `None` when it was not there.
    pub old: Option<String>,
    /// What it is, as written; `None` when it is gone.
    pub new: Option<String>,
}

impl Change {
    /// Whether a reload brings it into force.
    pub fn is_at_once(&self) -> bool {
        AT_ONCE.iter().any(|section| self.key.starts_with(section))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "the default".into());
        write!(f, "{}: {} -> {}", self.key, shown(&self.old), shown(&self.new))
    }
}

/// The changes from one file to another, in order of key. What is not TOML counts as empty.
pub fn changes(old: &str, new: &str) -> Vec<Change> {
    let (old, new) = (values(old), values(new));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |key: &String| Change {
        key: key.clone(),
        old: old.get(key).cloned(),
        new: new.get(key).cloned(),
    };
    keys.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

fn values(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(document) = Document::parse(text) {
        collect(text, "", document.as_item(), &mut found);
    }
    found
}

fn collect(text: &str, path: &str, item: &Item, found: &mut BTreeMap<String, String>) {
    let inside = |key: &str| if path.is_empty() { key.into() } else { format!("{path}.{key}") };
    match item {
        Item::None => {}
        Item::Value(value) => drop(found.insert(path.to_owned(), written(text, value))),
        Item::Table(table) => {
            for (key, item) in table {
                collect(text, &inside(key), item, found);
            }
        }
        Item::ArrayOfTables(tables) => {
            for (at, table) in tables.iter().enumerate() {
                for (key, item) in table {
                    collect(text, &format!("{path}[{at}].{key}"), item, found);
                }
            }
        }
    }
}

/// As it stands in the file, on one line.
fn written(text: &str, value: &Value) -> String {
    let written = value.span().and_then(|span| text.get(span)).unwrap_or_default();
    written.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
[node]
name = "mx1"   # a comment
[smtp]
listen = ["0.0.0.0:25",
  "[::]:25"]
[[smtp.certificates]]
cert = "a.pem"
key = "a.key"
[limits]
recipients_max = 200
"#;

    #[test]
    fn only_values_that_differ_are_changes() {
        let same = OLD.replace("  # a comment", "").replace(",\n  ", ", ");
        assert_ne!(same, OLD);
        assert_eq!(changes(OLD, &same), []);
        let new = OLD.replace("a.pem", "b.pem").replace("recipients_max = 200", "hops_max = 9");
        let told: Vec<_> =
            changes(OLD, &new).iter().map(|c| (c.to_string(), c.is_at_once())).collect();
        assert_eq!(
            told,
            [
                ("limits.hops_max: the default -> 9".to_owned(), false),
                ("limits.recipients_max: 200 -> the default".to_owned(), false),
                (r#"smtp.certificates[0].cert: "a.pem" -> "b.pem""#.to_owned(), true),
            ]
        );
    }
}
