//! Watching a drain: a bar for people, a line a step for programs.

use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use super::Output;
use super::output::{clean, write_out};
use crate::http::call::{Call, HostCall, HostRow};
use crate::http::client::Admin;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The node that is asked may be away for so long, such as for a restart.
const PATIENCE: Duration = Duration::from_secs(60);

/// Show how far the drain of a host is, until it is retired or back in service.
pub(super) fn watch(name: &str, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let bar = match output {
        Output::Table => ProgressBar::new(0),
        Output::Json => ProgressBar::hidden(),
    };
    bar.set_style(ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} messages; {msg}")?);
    bar.set_prefix(clean(name));
    let (mut last, mut answered) = (None, Instant::now());
    loop {
        let show = Call::Host(HostCall::Show { name: name.to_owned() });
        match admin.call::<HostRow>(&show) {
            Ok(row) => {
                answered = Instant::now();
                if last.as_ref() != Some(&row) {
                    tell(&row, &bar, output)?;
                }
                if row.drain.is_none() {
                    bar.finish_and_clear();
                    return end(&row, output);
                }
                last = Some(row);
            }
            Err(error) if answered.elapsed() > PATIENCE => return Err(error),
            Err(error) => bar.set_message(clean(&format!("no answer: {error}"))),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn tell(row: &HostRow, bar: &ProgressBar, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return write_out(&serde_json::to_string(row)?);
    }
    let Some(drain) = &row.drain else { return Ok(()) };
    let (first, left) = (drain.mail_first.unwrap_or(0), drain.mail_left.unwrap_or(0));
    bar.set_length(first);
    bar.set_position(first.saturating_sub(left));
    bar.set_message(clean(&drain.waits_for));
    Ok(())
}

fn end(row: &HostRow, output: Output) -> anyhow::Result<()> {
    if row.state != "retired" {
        bail!("{} is {} again: the drain was cancelled", row.name, row.state);
    }
    if output == Output::Table {
        eprintln!("{} is empty and retired; it may be switched off", clean(&row.name));
    }
    Ok(())
}
