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
            Self::Table => table(header, rows(data)),
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

fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
