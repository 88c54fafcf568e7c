//! What a reader may rely on in every file, so that nobody has to ask for it in review.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 100;

/// What each stage may use of the rest of the crate (`ARCHITECTURE.md`: arrows point one way).
/// A module that is not named here may use everything but `cli` and `node`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("smtp", &[]),
    // The bounds are plain values that are passed in.
    ("session", &["config", "smtp"]),
    ("schedule", &["smtp"]),
    ("verdict", &["smtp"]),
    ("system", &[]),
    ("config", &["smtp", "system"]),
    ("telemetry", &["config", "smtp", "system"]),
    ("policy", &["blacklist", "callout", "config", "returns", "smtp", "system", "telemetry"]),
    ("returns", &["blacklist", "bounce", "config", "smtp", "spool", "system", "telemetry"]),
    (
        "callout",
        &["blacklist", "client", "config", "route", "smtp", "system", "telemetry", "verdict"],
    ),
    ("roles", &["bounce", "client", "smtp", "system"]),
    ("probe", &["client", "config", "fleet_wide", "route", "smtp", "system"]),
    ("authentication", &["bounce", "config", "smtp", "system", "telemetry"]),
    ("blacklist", &["config", "smtp", "spool", "system", "telemetry"]),
    ("spool", &["config", "smtp", "system", "telemetry"]),
    // A route is a list of what the client connects to.
    ("route", &["client", "config", "smtp", "system", "telemetry"]),
    ("client", &["config", "smtp", "system", "telemetry"]),
    ("bounce", &["config", "smtp", "spool", "system", "telemetry", "verdict"]),
];

/// A source file with its path from the root.
struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for top in [
        "src",
        "cluster/src",
        "cluster/tests",
        "cluster/benches",
        "tests",
        "benches",
        "fuzz",
        "ops/bench/load/src",
    ] {
        walk(&root.join(top), &mut found);
    }
    assert!(found.len() > 20, "the walk finds the sources");
    let source = |path: PathBuf| Source {
        text: std::fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root).unwrap().display().to_string(),
    };
    found.into_iter().map(source).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Fail with all faults at once.
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Whether this file is test code; of other files, what stands before the inline tests counts.
fn is_test(source: &Source) -> bool {
    let path = &source.path;
    path.starts_with("tests/") || path.contains("/tests") || path.ends_with("tests.rs")
}

fn without_tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // `mod tests;` names a file of its own and ends nothing; `mod tests {` is the rest of a file.
    let inline = "#[cfg(test)]\nmod tests {";
    let code = text.find(inline).map_or(text, |at| &text[..at]);
    code.lines().enumerate()
}

#[test]
fn every_file_fits_the_head() {
    let mut faults = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines, at most {LINES_MAX}", source.path));
        }
    }
    assert_none(&faults);
}

#[test]
fn every_line_fits_the_screen_and_has_no_stray_characters() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let place = format!("{}:{}", source.path, number + 1);
            if line.chars().count() > COLUMNS_MAX {
                faults.push(format!("{place}: wider than {COLUMNS_MAX} columns"));
            }
            if line.contains('\t') || line.ends_with(' ') || line.chars().any(char::is_control) {
                faults.push(format!("{place}: a tab, control character or trailing space"));
            }
        }
        if !source.text.ends_with('\n') || source.text.ends_with("\n\n") {
            faults.push(format!("{}: must end in exactly one newline", source.path));
        }
    }
    assert_none(&faults);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    let faults: Vec<String> =
        silent.map(|source| format!("{}: no module doc on line 1", source.path)).collect();
    assert_none(&faults);
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    // Written in two halves, so that this file passes its own test.
    let forbidden = [
        ["todo", "!("],
        ["unimplemented", "!("],
        ["dbg", "!("],
        ["#[igno", "re"],
        ["#[should_", "panic]"],
        ["FIX", "ME"],
        ["XX", "X:"],
    ];
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            for word in forbidden.iter().map(|halves| halves.concat()) {
                if line.contains(&word) {
                    faults.push(format!("{}:{}: {word}", source.path, number + 1));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn a_lint_is_switched_off_only_with_a_reason() {
    let mut faults = Vec::new();
    for source in sources() {
        for opening in ["[allow(", "[expect("] {
            for (at, _) in source.text.match_indices(opening) {
                if !source.text[..at].ends_with(['#', '!']) {
                    continue; // a mention such as the one above
                }
                let attribute = source.text[at..].split(")]").next().unwrap();
                if !attribute.contains("reason = ") {
                    let line = source.text[..at].lines().count() + 1;
                    faults.push(format!("{}:{line}: {attribute})] has no reason", source.path));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn wall_time_and_chance_come_from_one_module() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !is_test(source)) {
        if source.path.starts_with("src/system/") {
            continue;
        }
        for (number, line) in without_tests(&source.text) {
            if line.contains("SystemTime::now") || line.contains("getrandom") {
                faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn pure_stages_do_no_input_or_output() {
    let pure = ["src/smtp", "src/session", "src/schedule", "src/verdict", "cluster/src/state"];
    let io = ["std::fs", "std::net::Tcp", "std::thread", "tokio", "Instant::now"];
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !is_test(source)) {
        if !pure.iter().any(|stage| source.path.starts_with(stage)) {
            continue;
        }
        for (number, line) in without_tests(&source.text) {
            let code = line.split("//").next().unwrap();
            for word in io.iter().filter(|word| code.contains(**word)) {
                faults.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn arrows_between_modules_point_one_way() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !is_test(source)) {
        let Some(inside) = source.path.strip_prefix("src/") else { continue };
        let module = inside.split(['/', '.']).next().unwrap();
        if ["main", "lib", "node", "cli"].contains(&module) {
            continue;
        }
        for (number, line) in without_tests(&source.text) {
            for used in uses(line) {
                let allowed = MAY_USE.iter().find(|(name, _)| *name == module);
                let allowed = match allowed {
                    Some((_, allowed)) => used == module || allowed.contains(&used),
                    // Only what speaks HTTP itself may name its side of it.
                    None => match used {
                        "node" | "cli" => false,
                        "http" => ["http", "dev"].contains(&module),
                        _ => true,
                    },
                };
                if !allowed {
                    faults.push(format!("{}:{}: uses {used}", source.path, number + 1));
                }
            }
        }
    }
    assert_none(&faults);
}

/// The modules of this crate that a line of code names.
fn uses(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap();
    code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}
