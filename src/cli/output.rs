//! Tables for people, JSON for programs.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::smtp::is_unprintable;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

impl Output {
    /// Print `data`: as JSON, or as the table `rows` makes of it.
    pub fn print<T: Serialize>(
        self,
        data: &T,
        header: &[&str],
        rows: impl Fn(&T) -> Vec<Vec<String>>,
    ) -> anyhow::Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(data)?,
            Self::Table => table(header, rows(data), terminal_columns()),
        };
        write_out(&text)
    }

    /// Print `data` as JSON, or say `words` on standard error.
    pub fn say<T: Serialize>(self, data: &T, words: &str) -> anyhow::Result<()> {
        match self {
            Self::Json => write_out(&serde_json::to_string_pretty(data)?),
            Self::Table => {
                eprintln!("{}", clean(words));
                Ok(())
            }
        }
    }
}

/// One row: as the table `rows` makes of it, or as a JSON object.
pub(super) fn print_one<T: Serialize>(
    row: T,
    output: Output,
    rows: impl Fn(&Vec<T>, Output) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match output {
        Output::Table => rows(&vec![row], output),
        Output::Json => write_out(&serde_json::to_string_pretty(&row)?),
    }
}

/// A line to standard output. A reader that went away (`| head`) is no error.
pub(super) fn write_out(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What could drive a terminal becomes `?`; line ends stay.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) && c != '\n' { '?' } else { c }).collect()
}

/// `1 customer`, `7 customers`.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The start of `text`, at most so many characters, for a cell of a table.
pub(super) fn brief(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What went wrong and why, joined by colons. Many errors say the one below them already; that is
/// not said again.
pub(super) fn reasons(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for reason in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = reason;
        } else if !said.contains(&reason) {
            said.push_str(": ");
            said.push_str(&reason);
        }
    }
    said
}

/// How wide the terminal is; `None` when the output goes elsewhere, or it does not say.
fn terminal_columns() -> Option<u16> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok());
    size.flatten().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

fn table(header: &[&str], rows: Vec<Vec<String>>, columns: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_table_fits_the_terminal() {
        let rows = || vec![vec!["queue.lifetime".to_owned(), "words ".repeat(100)]];
        let fits = |text: &str, columns| text.lines().all(|line| line.chars().count() <= columns);
        assert!(fits(&table(&["SETTING", "WHAT IT DOES"], rows(), Some(80)), 80));
        let piped = table(&["SETTING", "WHAT IT DOES"], rows(), None);
        assert_eq!(piped.lines().count(), 2);
        assert!(!fits(&piped, 80));
    }

    #[test]
    fn a_cell_is_cut_between_characters() {
        assert_eq!((brief("héé", 3).as_str(), brief("héé", 2).as_str()), ("héé", "hé…"));
    }

    #[test]
    fn a_reason_that_was_said_is_not_said_again() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read it: {source}")]
        struct Says {
            source: std::io::Error,
        }
        let says = Says { source: std::io::Error::other("no such file") };
        assert_eq!(reasons(&says.into()), "cannot read it: no such file");
        let adds = Err::<(), _>(std::io::Error::other("no such file")).context("cannot start");
        assert_eq!(reasons(&adds.unwrap_err()), "cannot start: no such file");
    }
}
