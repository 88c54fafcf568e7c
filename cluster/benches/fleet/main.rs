//! How fast nodes decide and count, and how large tables behave.
//!
//! `cargo bench -p mxfleet-cluster` for all, `-- NAME` for one of the measurements below. Prints a
//! line each; compare runs on one machine only.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement that fails may panic")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "for people")]

mod blacklist;
mod catch_up;
mod domains;
mod fifty;
mod process;
#[path = "../../tests/support/mod.rs"]
mod support;
mod writes;

/// What the program has.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let word = words.next();
    // `cargo test` builds and starts benches too, without `--bench`; so do the parts of `fifty`.
    if let (Some(fifty::FOLLOWERS), Some(place)) = (word.as_deref(), words.next()) {
        return run(fifty::followers(place));
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let chosen = |name| word.as_deref().is_none_or(|word| word == name);
    if chosen("domains") {
        run(domains::lookups());
    }
    if chosen("writes") {
        run(writes::single());
    }
    if chosen("counts") {
        run(writes::counts());
    }
    if chosen("blacklist") {
        run(blacklist::decisions());
    }
    if chosen("catch-up") {
        run(catch_up::snapshot_and_newcomer());
    }
    if chosen("fifty") {
        run(fifty::leader());
    }
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(work);
}
