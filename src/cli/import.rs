//! `mxfleet domain import`: a file in parts, and then all of them at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use csv::{Position, StringRecord};
use mxfleet_cluster::random_id;

use super::Output;
use super::domain::refuse_wrong;
use crate::http::call::{Call, Changed, DomainRow, RefusedKind};
use crate::http::client::{Admin, AdminError};

/// A part must fit a log entry: so many rows, or so many octets of them.
const PART_ROWS: usize = 500;
const PART_OCTETS: usize = 128 << 10;
/// What a file may say of a domain; the first of them it must.
const COLUMNS: [&str; 10] = [
    "name",
    "customer",
    "route",
    "tls",
    "connections_max",
    "blacklist",
    "blacklist_threshold",
    "blacklist_window",
    "blacklist_hold",
    "verify",
];
const REQUIRED: usize = 3;
/// While the fleet has no leader, a part is sent again.
const ATTEMPTS_MAX: usize = 4;
const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn import(file: &Path, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let domains = read_csv(file)?;
    anyhow::ensure!(!domains.is_empty(), "there is no domain in {}", file.display());
    let id = admin.request_id().unwrap_or_else(random_id);
    let import = format!("{id:032x}");
    let go_on = format!("`mxfleet domain import {} --request-id {import}`", file.display());
    let mut progress = Progress { total: domains.len(), shown: std::io::stderr().is_terminal() };
    let (mut part, mut sent) = (0, 0);
    for rows in parts(&domains) {
        sent += rows.len();
        let call = Call::DomainStage { import: import.clone(), part, domains: rows.to_vec() };
        let _: Changed = patiently(admin, &call).with_context(|| {
            progress.end();
            format!("nothing was imported; once this is mended, {go_on} goes on")
        })?;
        part += 1;
        progress.show(sent);
    }
    progress.end();
    let changed: Changed =
        patiently(admin, &Call::DomainCommit { import, parts: part }).map_err(|error| {
            let words = undone(&error, &go_on);
            error.context(words)
        })?;
    output.say(&changed, &format!("{sent} domains read, {} changed", changed.changed))
}

/// What is told while an import runs, to people only.
struct Progress {
    total: usize,
    shown: bool,
}

impl Progress {
    fn show(&self, sent: usize) {
        if self.shown {
            let percent = 100 * sent / self.total.max(1);
            eprint!("\r{sent} of {} domains sent ({percent}%)", self.total);
            let _ = std::io::stderr().flush(); // nobody sees it then
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprintln!();
        }
    }
}

/// What came of an import that was not committed. One that was refused has had its answer: under
/// the same id it is given again, whatever was mended meanwhile.
fn undone(error: &anyhow::Error, go_on: &str) -> String {
    let kind = refused_by(error).filter(|kind| *kind != RefusedKind::Unavailable);
    if kind.is_none() {
        return format!("the import was not confirmed; {go_on} asks again");
    }
    "nothing was imported; once this is mended, import the file again, without --request-id"
        .to_owned()
}

/// The rows in parts, cut the same way each time.
fn parts(domains: &[DomainRow]) -> impl Iterator<Item = &[DomainRow]> {
    let mut rest = domains;
    std::iter::from_fn(move || {
        let mut octets = 0;
        let fitting = rest.iter().take(PART_ROWS).take_while(|row| {
            octets += row.name.len() + row.customer.len() + row.route.len() + row.tls.len();
            octets <= PART_OCTETS
        });
        // A row that fits nowhere is sent by itself, and refused with a reason.
        let count = fitting.count().max(1).min(rest.len());
        let (part, more) = rest.split_at(count);
        rest = more;
        (!part.is_empty()).then_some(part)
    })
}

/// Ask, and ask again while the fleet has no leader. Each of these calls is done once.
fn patiently(admin: &Admin, call: &Call) -> anyhow::Result<Changed> {
    let mut attempt = 1;
    loop {
        let answer = admin.call(call);
        let kind = answer.as_ref().err().and_then(refused_by);
        let unavailable = kind == Some(RefusedKind::Unavailable);
        if !unavailable || attempt == ATTEMPTS_MAX {
            return answer;
        }
        attempt += 1;
        std::thread::sleep(PAUSE);
    }
}

fn refused_by(error: &anyhow::Error) -> Option<RefusedKind> {
    match error.downcast_ref() {
        Some(AdminError::Refused(refused)) => Some(refused.kind),
        _ => None,
    }
}

/// Every bad line is told, and nothing is sent when there is one.
fn read_csv(file: &Path) -> anyhow::Result<Vec<DomainRow>> {
    let cannot_read = || format!("cannot read {}", file.display());
    let mut reader = csv::Reader::from_path(file).with_context(cannot_read)?;
    let columns = reader.headers().with_context(cannot_read)?.clone();
    require_columns(&columns).with_context(|| format!("nothing was read of {}", file.display()))?;
    let (mut domains, mut wrong) = (Vec::new(), Vec::new());
    let mut first_lines: BTreeMap<String, u64> = BTreeMap::new();
    for record in reader.records() {
        let line = record.as_ref().ok().and_then(|record| record.position().map(Position::line));
        match record.and_then(|record| record.deserialize::<DomainRow>(Some(&columns))) {
            Ok(row) => {
                let (line, name) = (line.unwrap_or_default(), row.name.to_ascii_lowercase());
                match first_lines.entry(name) {
                    Entry::Vacant(entry) => drop(entry.insert(line)),
                    Entry::Occupied(first) => wrong.push(format!(
                        "line {line}: {} is on line {} already",
                        row.name,
                        first.get()
                    )),
                }
                domains.push(row);
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    refuse_wrong(&wrong, file)?;
    Ok(domains)
}

/// Whether the first line names the columns, and only such as are known: what is misspelt would
/// silently have its default.
fn require_columns(columns: &StringRecord) -> anyhow::Result<()> {
    let unknown: Vec<&str> = columns.iter().filter(|name| !COLUMNS.contains(name)).collect();
    let missing = COLUMNS.iter().take(REQUIRED).any(|name| !columns.iter().any(|c| c == *name));
    anyhow::ensure!(
        !missing,
        "its first line must name the columns, at least {}, as in \"name,customer,route\" and \
         below that \"acme.test,acme,mail.acme.test:25\"",
        COLUMNS[..REQUIRED].join(",")
    );
    anyhow::ensure!(
        unknown.is_empty(),
        "there are no such columns: {}; there are {}",
        unknown.join(","),
        COLUMNS.join(",")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::call::Refused;

    fn row(name: usize, route: usize) -> DomainRow {
        DomainRow::new(format!("d{name}.test"), "acme".to_owned(), "x".repeat(route))
    }

    #[test]
    fn an_import_that_was_refused_is_begun_anew_and_one_without_an_answer_is_asked_for_again() {
        let go_on = "`mxfleet domain import x --request-id 7`";
        let refused = |refused: Refused| anyhow::Error::from(AdminError::Refused(refused));
        let said = undone(&refused(Refused::invalid("there is no customer acme")), go_on);
        assert!(said.contains("nothing was imported") && !said.contains(go_on), "{said}");
        let broken = AdminError::Broken("it ended".to_owned());
        for error in [refused(Refused::unavailable("no quorum")), broken.into()] {
            assert!(undone(&error, go_on).contains(go_on), "{error}");
        }
    }

    fn read(text: &str) -> Result<usize, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_csv(file.path()).map(|rows| rows.len()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_file_must_say_what_its_columns_are_and_each_domain_once() {
        assert_eq!(read("name,customer,route\na.test,acme,mx\nb.test,acme,mx\n"), Ok(2));
        assert_eq!(read("route,tls,name,customer\nmx,require,a.test,acme\n"), Ok(1));
        for (text, why) in [
            ("", "its first line must name the columns"),
            ("a.test,acme,mx\n", "its first line must name the columns"),
            ("name,customer,route,tsl\na.test,acme,mx,require\n", "no such columns: tsl"),
            (
                "name,customer,route\na.test,acme,mx\nA.test,acme,m:25\n",
                "line 3: A.test is on line 2 already",
            ),
            ("name,customer,route\na.test,acme\n", "line: 2"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }

    #[test]
    fn parts_are_bounded_in_rows_and_octets_and_hold_everything_in_order() {
        let mut rows: Vec<_> = (0..1200).map(|n| row(n, 20)).collect();
        rows.extend((1200..1300).map(|n| row(n, 5000)));
        rows.push(row(1300, 2 * PART_OCTETS));
        rows.push(row(1301, 1));
        let cut: Vec<_> = parts(&rows).collect();
        assert_eq!(cut.concat(), rows);
        assert!(cut.iter().all(|part| part.len() <= PART_ROWS));
        let octets = |part: &[DomainRow]| part.iter().map(|row| row.route.len()).sum::<usize>();
        let large = cut.iter().filter(|part| octets(part) > PART_OCTETS);
        assert_eq!(large.map(|part| part.len()).collect::<Vec<_>>(), [1]);
        assert_eq!(parts(&[]).count(), 0);
    }
}
