//! How a domain's recipients are judged: between the words of an admin call and the table.

use mxfleet_cluster::{RecipientChange, RecipientList, RecipientPolicy, parse_duration_ms};

use super::call::{DomainRow, RecipientListRow, RecipientTerms, Refused};
use crate::policy::list;

/// What a new domain has of its own.
pub(super) fn policy(row: &DomainRow) -> Result<RecipientPolicy, Refused> {
    let terms = RecipientTerms {
        blacklist: Some(row.blacklist.clone()),
        blacklist_threshold: row.blacklist_threshold,
        blacklist_window: row.blacklist_window.clone(),
        blacklist_hold: row.blacklist_hold.clone(),
        verify: Some(row.verify.clone()),
    };
    let change = change(&terms)?;
    Ok(RecipientPolicy {
        blacklist_off: change.blacklist_off.unwrap_or_default(),
        threshold: change.threshold.flatten(),
        window_ms: change.window_ms.flatten(),
        hold_ms: change.hold_ms.flatten(),
        verify: change.verify.unwrap_or_default(),
    })
}

/// What is to change in what a domain has of its own.
pub(super) fn change(terms: &RecipientTerms) -> Result<RecipientChange, Refused> {
    let blacklist_off = match terms.blacklist.as_deref() {
        None => None,
        Some("on") => Some(false),
        Some("off") => Some(true),
        Some(_) => return Err(Refused::invalid("--blacklist is on or off")),
    };
    Ok(RecipientChange {
        blacklist_off,
        threshold: terms.blacklist_threshold.map(own),
        window_ms: duration("--blacklist-window", terms.blacklist_window.as_deref())?,
        hold_ms: duration("--blacklist-hold", terms.blacklist_hold.as_deref())?,
        verify: terms.verify.as_deref().map(str::parse).transpose()?,
    })
}

/// Nothing at all is the fleet's setting.
fn own(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

fn duration(name: &str, text: Option<&str>) -> Result<Option<Option<u64>>, Refused> {
    let Some(text) = text else { return Ok(None) };
    match parse_duration_ms(text) {
        Some(ms) => Ok(Some(own(ms))),
        None => Err(Refused::invalid(format!("{name} is a duration such as 90s, 4h or 5d"))),
    }
}

/// What the lines of a list say. The first that is wrong is told.
pub(super) fn entries(domain: &str, lines: &[String]) -> Result<Vec<String>, Refused> {
    let entries = lines.iter().filter_map(|line| list::entry(domain, line));
    entries.collect::<Result<Vec<_>, _>>().map_err(Refused::invalid)
}

/// As it is printed.
pub(super) fn row(list: &RecipientList) -> RecipientListRow {
    RecipientListRow {
        addresses: list.exact_len(),
        patterns: list.patterns_len(),
        version: list.version(),
    }
}
