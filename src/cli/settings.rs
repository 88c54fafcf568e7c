//! `mxfleet settings`.

use clap::Subcommand;

use super::Output;
use crate::http::call::{Call, Changed, SettingRow};
use crate::http::client::Admin;

/// What can be done with settings.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All settings, with their defaults and what they do.
    List,
    /// The value of one setting.
    Get {
        /// Its name, for example `queue.lifetime`.
        name: String,
    },
    /// Change a setting on every node, without restart.
    #[command(after_help = "Example: mxfleet settings set queue.lifetime 3d")]
    Set {
        /// Its name.
        name: String,
        /// Its new value; its default when absent.
        value: Option<String>,
    },
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    match verb {
        Verb::List => {
            let rows: Vec<SettingRow> = admin.call(&Call::SettingsList)?;
            output.print(&rows, &["SETTING", "VALUE", "DEFAULT", "WHAT IT DOES"], |rows| {
                let row = |s: &SettingRow| {
                    let about = format!("{} ({})", s.about, s.caution);
                    vec![s.name.clone(), s.value.clone(), s.default.clone(), about]
                };
                rows.iter().map(row).collect()
            })
        }
        Verb::Get { name } => {
            let row: SettingRow = admin.call(&Call::SettingsGet { name })?;
            match output {
                Output::Table => super::output::write_out(&row.value),
                Output::Json => super::output::write_out(&serde_json::to_string_pretty(&row)?),
            }
        }
        Verb::Set { name, value } => {
            let words = match &value {
                Some(value) => format!("{name} is {value} now"),
                None => format!("{name} has its default again"),
            };
            let changed: Changed = admin.call(&Call::SettingsSet { name, value })?;
            output.say(&changed, &words)
        }
    }
}
