//! Watching a drain: a bar for people, a line a step for programs.

use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use super::Output;
use super::output::{clean, write_out};
use crate::http::call::{Call, DrainRow, HostCall, HostRow};
use crate::http::client::Admin;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The node that is asked may be away for so long, such as for a restart.
const PATIENCE: Duration = Duration::from_secs(60);
/// Width of the bar.
const BAR_CELLS: usize = 20;

/// Show how far the drain of a host is, until it is retired or back in service.
pub(super) fn watch(name: &str, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let bar = match output {
        Output::Table => ProgressBar::no_length(),
        Output::Json => ProgressBar::hidden(),
    };
    // The bar is part of the message: what is set one by one is drawn one by one, and would not fit
    // together. What is too long for the line is cut.
    bar.set_style(ProgressStyle::with_template("{wide_msg}")?);
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
    bar.set_message(clean(&line(&row.name, &picture(drain))));
    Ok(())
}

/// One line of a terminal.
fn line(name: &str, picture: &Picture) -> String {
    let width = BAR_CELLS as u64;
    let cells = width.saturating_mul(picture.position) / picture.length.max(1);
    let done = "#".repeat(usize::try_from(cells).unwrap_or(BAR_CELLS).min(BAR_CELLS));
    format!("{name} [{done:-<BAR_CELLS$}] {}", picture.words)
}

/// What a bar shows.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    length: u64,
    position: u64,
    words: String,
}

/// The bar stands for the queue: it is empty until the names lead elsewhere, and full when only the
/// vote is left.
fn picture(drain: &DrainRow) -> Picture {
    let late = match &drain.deadline {
        Some(by) if drain.late => format!(" (late: it was to be empty by {by})"),
        Some(by) => format!(" (by {by})"),
        None => String::new(),
    };
    let counts = drain.mail_first.zip(drain.mail_left).filter(|_| drain.step != "names");
    match counts {
        Some((first, left)) => {
            let (length, position) = (first.max(1), first.max(1) - left.min(first));
            let gone = first.saturating_sub(left);
            let plural = if first == 1 { "" } else { "s" };
            let words = format!("{gone}/{first} message{plural}; {}{late}", drain.waits_for);
            Picture { length, position, words }
        }
        None => Picture { length: 1, position: 0, words: format!("{}{late}", drain.waits_for) },
    }
}

fn end(row: &HostRow, output: Output) -> anyhow::Result<()> {
    if row.state != "retired" {
        bail!("{} is {} again: the drain was cancelled", row.name, row.state);
    }
    if output == Output::Table {
        let name = clean(&row.name);
        match &row.vote_waits_for {
            None => eprintln!("{name} is empty and retired; it may be switched off"),
            Some(what) => eprintln!("{name} is retired by force, and still votes: {}", clean(what)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(step: &str, counts: Option<(u64, u64)>) -> (u64, u64, String) {
        let (mail_first, mail_left) = counts.unzip();
        let picture = picture(&DrainRow {
            step: step.to_owned(),
            waits_for: "it".to_owned(),
            since: String::new(),
            deadline: None,
            late: false,
            mail_first,
            mail_left,
        });
        (picture.position, picture.length, picture.words)
    }

    #[test]
    fn who_is_past_the_deadline_is_told_in_every_step() {
        for (step, mail_left) in
            [("names", None), ("mail", None), ("mail", Some(5)), ("votes", Some(0))]
        {
            let words = |late| {
                let (step, waits_for, mail_first) = (step.into(), "it".into(), Some(20));
                let (since, deadline) = (String::new(), Some("noon".into()));
                picture(&DrainRow { step, waits_for, since, deadline, late, mail_first, mail_left })
                    .words
            };
            assert!(words(false).ends_with("it (by noon)"), "{step}");
            assert!(words(true).ends_with("it (late: it was to be empty by noon)"), "{step}");
        }
    }

    #[test]
    fn the_bar_is_empty_at_first_and_full_when_the_queue_is_empty() {
        assert_eq!(shown("names", None), (0, 1, "it".to_owned()));
        assert_eq!(shown("names", Some((20, 0))).0, 0, "the names come first");
        assert_eq!(shown("mail", None), (0, 1, "it".to_owned()), "not counted");
        assert_eq!(shown("mail", Some((20, 20))), (0, 20, "0/20 messages; it".to_owned()));
        assert_eq!(shown("mail", Some((20, 5))), (15, 20, "15/20 messages; it".to_owned()));
        assert_eq!(shown("votes", Some((20, 0))), (20, 20, "20/20 messages; it".to_owned()));
        let none = shown("votes", Some((0, 0)));
        assert_eq!((none.0, none.1), (1, 1), "there was nothing to hand over");
        assert_eq!(shown("mail", Some((1, 1))).2, "0/1 message; it");
    }

    #[test]
    fn the_bar_and_the_words_are_one_line() {
        let line =
            |position, length| line("mx1", &Picture { length, position, words: "it".to_owned() });
        assert_eq!(line(0, 1), "mx1 [--------------------] it", "the first frame is empty");
        assert_eq!(line(5, 20), "mx1 [#####---------------] it");
        assert_eq!(line(20, 20), "mx1 [####################] it");
        assert_eq!(line(0, 0), "mx1 [--------------------] it");
    }
}
