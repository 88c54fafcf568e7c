//! Runs, the client, the oracle.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Bug;
use super::fleet::Fleet;
use super::network::lock;
use super::reports::Reports;
use super::runtime::{self, below, between, chance, next};
use crate::propose::{Forwarder, ProposeError};
use crate::state::{Command, Customer, CustomerStatus, Request, State};

const STORM: Duration = Duration::from_secs(20);
/// Some bugs show only in what seldom happens.
const LONG_STORM: Duration = Duration::from_secs(40);
const CALM: Duration = Duration::from_secs(30);
const CLIENTS: u64 = 3;
/// Moments between two comparisons of all states.
const COMPARE_EVERY: u64 = 10;
/// Seeds that are run when nobody says how many.
const SEEDS: u64 = 200;

/// What a client was told of the customer it added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    Nothing,
    Unknown,
    /// Something that cannot be: the customer is new, and was refused.
    Nonsense,
}

type History = Arc<Mutex<BTreeMap<String, Told>>>;

fn add(id: &str) -> Request {
    let customer = Customer {
        id: id.to_owned(),
        name: String::new(),
        contacts: Vec::new(),
        status: CustomerStatus::Active,
    };
    let unique = (u128::from(next()) << 64) | u128::from(next());
    Request::new(unique, "client", 1_700_000_000_000, Command::CustomerAdd(customer))
}

async fn client(id: String, forwarder: Forwarder, history: History, trace: Arc<Mutex<String>>) {
    // A client whose node goes off never hears.
    let told = match timeout(Duration::from_secs(8), forwarder.propose(add(&id))).await {
        Ok(Ok(Ok(1))) => Told::Done,
        Ok(Err(ProposeError::NoQuorum | ProposeError::Refused(_))) => Told::Nothing,
        Ok(Err(_)) | Err(_) => Told::Unknown,
        Ok(Ok(_)) => Told::Nonsense,
    };
    history.lock().unwrap().insert(id.clone(), told);
    writeln!(trace.lock().unwrap(), "{id} {told:?}").unwrap();
}

fn disturb(fleet: &Fleet, ids: &[u64]) -> String {
    let mut world = lock(&fleet.world);
    let pick = || ids[usize::try_from(below(ids.len() as u64)).unwrap()];
    match below(5) {
        0 => {
            let (a, b) = (pick(), pick());
            world.cut.insert((a, b));
            format!("cut {a} to {b}")
        }
        1 => {
            let alone = pick();
            for other in ids {
                world.cut.extend([(alone, *other), (*other, alone)]);
            }
            format!("cut off {alone}")
        }
        2 => {
            world.loss_percent = below(30);
            format!("lose {}%", world.loss_percent)
        }
        3 => {
            world.slow = !world.slow;
            format!("slow {}", world.slow)
        }
        _ => {
            world.cut.clear();
            world.loss_percent = 0;
            "heal".to_owned()
        }
    }
}

/// One run: a storm with clients, then calm, then the reckoning.
async fn run(size: u64, bug: Option<Bug>) -> Result<String, String> {
    let mut fleet = Fleet::of(size, bug).await;
    let (history, trace) = (History::default(), Arc::new(Mutex::new(String::new())));
    let reports = Reports::of(size, bug);
    let storm = if bug.is_some() { LONG_STORM } else { STORM };
    let begun = Instant::now();
    let note = |what: &str| {
        let at = begun.elapsed().as_micros();
        writeln!(trace.lock().unwrap(), "{at} {what}").unwrap();
    };
    let (mut written, mut moments) = (0_u64, 0_u64);
    while begun.elapsed() < storm {
        sleep(between(20_000, 120_000)).await;
        let ids = fleet.ids();
        for _ in 0..below(CLIENTS + 1) {
            let id = ids[usize::try_from(below(ids.len() as u64)).unwrap()];
            let Some(node) = fleet.nodes.get(&id) else { continue };
            written += 1;
            let (forwarder, name) = (node.forwarder.clone(), format!("c{written}"));
            tokio::spawn(client(name, forwarder, Arc::clone(&history), Arc::clone(&trace)));
        }
        for (id, node) in fleet.nodes.iter().filter(|_| chance(4)) {
            reports.send(*id, node.forwarder.clone(), true);
        }
        if chance(6) {
            note(&disturb(&fleet, &ids));
        }
        let id = ids[usize::try_from(below(ids.len() as u64)).unwrap()];
        if chance(5) {
            fleet.crash(id);
            note(&format!("crash {id}"));
        }
        if chance(1) {
            ids.iter().for_each(|id| fleet.crash(*id));
            note("all lose power");
        }
        for id in fleet.off.keys().copied().collect::<Vec<_>>() {
            if chance(10) {
                fleet.start(id).await?;
                note(&format!("start {id}"));
            }
        }
        fleet.check()?;
        moments += 1;
        if moments.is_multiple_of(COMPARE_EVERY) {
            fleet.compare()?;
        }
    }
    fleet.heal();
    for id in fleet.off.keys().copied().collect::<Vec<_>>() {
        fleet.start(id).await?;
    }
    note("calm");
    reckon(&mut fleet, &history, &reports, &trace).await?;
    let trace = trace.lock().unwrap().clone();
    Ok(trace)
}

/// After the storm all nodes come to one state that agrees with what clients were told.
async fn reckon(
    fleet: &mut Fleet,
    history: &History,
    reports: &Reports,
    trace: &Mutex<String>,
) -> Result<(), String> {
    let calm = Instant::now();
    loop {
        sleep(Duration::from_millis(500)).await;
        fleet.check()?;
        fleet.compare()?;
        let states: Vec<Arc<State>> = fleet.nodes.values().map(|n| n.view.state()).collect();
        let same = states.windows(2).all(|p| p[0].applied_index() == p[1].applied_index());
        let taken = reports.are_taken();
        for (id, node) in &fleet.nodes {
            reports.send(*id, node.forwarder.clone(), false);
        }
        // Clients that still wait have given up by then.
        if same && taken && calm.elapsed() > Duration::from_secs(10) {
            break;
        }
        if calm.elapsed() > CALM {
            let all: Vec<_> =
                fleet.nodes.values().map(|n| n.raft.metrics().borrow().to_string()).collect();
            return Err(format!("the nodes did not come together:\n{}", all.join("\n")));
        }
    }
    let forwarder = fleet.nodes[&1].forwarder.clone();
    if forwarder.propose(add("last")).await != Ok(Ok(1)) {
        return Err("a healed fleet does not take changes".to_owned());
    }
    let state = fleet.nodes[&1].view.state();
    for (id, told) in history.lock().unwrap().iter() {
        match (told, state.customer(id).is_some()) {
            (Told::Nonsense, _) => return Err(format!("{id} is new and was refused")),
            (Told::Done, false) => return Err(format!("{id} was acknowledged and is lost")),
            (Told::Nothing, true) => return Err(format!("{id} was denied and is there")),
            _ => {}
        }
    }
    let reported = reports.check(&state)?;
    let digest = crate::snapshot::digest(&state).map_err(|error| error.to_string())?;
    let told: Vec<Told> = history.lock().unwrap().values().copied().collect();
    let (done, all) = (told.iter().filter(|told| **told == Told::Done).count(), told.len());
    writeln!(trace.lock().unwrap(), "{done} of {all} done, {reported} reported, {digest:02x?}")
        .unwrap();
    Ok(())
}

/// A run of a seed, in a thread of its own, so that a panic is an answer too.
fn simulate(seed: u64, bug: Option<Bug>) -> Result<String, String> {
    let work = move || {
        runtime::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let size = if seed.is_multiple_of(4) { 5 } else { 3 };
        runtime.block_on(run(size, bug))
    };
    std::thread::spawn(work).join().unwrap_or_else(|_| Err("a panic".to_owned()))
}

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

/// Run `work` for each seed, on all processors; what the first that fails says, in order of seed.
fn in_parallel(
    seeds: std::ops::Range<u64>,
    work: impl Fn(u64) -> Result<(), String> + Sync,
) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(BTreeMap::new());
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || !failed.lock().unwrap().is_empty() {
                return;
            }
            if let Err(error) = work(seed) {
                failed.lock().unwrap().insert(seed, error);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(run)));
    });
    failed.into_inner().unwrap().pop_first()
}

#[test]
fn whatever_happens_nothing_acknowledged_is_lost_and_all_nodes_agree() {
    let first = std::env::var("SIM_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let failed = in_parallel(first..first + seeds(), |seed| {
        let trace = simulate(seed, None)?;
        if seeds() > SEEDS {
            eprintln!("seed {seed}: {}", trace.lines().last().unwrap_or_default());
        }
        Ok(())
    });
    assert_eq!(failed, None);
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    let (one, two) = (simulate(3, None).unwrap(), simulate(3, None).unwrap());
    let differ = one.lines().zip(two.lines()).position(|(one, two)| one != two);
    if let Some(at) = differ {
        let around = |trace: &str| {
            trace.lines().skip(at.saturating_sub(6)).take(9).collect::<Vec<_>>().join("\n")
        };
        panic!("from line {at}\n{}\n---\n{}", around(&one), around(&two));
    }
}

#[test]
fn every_bug_that_is_put_back_is_found() {
    let bugs = [
        Bug::VoteNotSynced,
        Bug::AppendNotSynced,
        Bug::SyncedIsLost,
        Bug::TruncateIgnored,
        Bug::EntryChanged,
        Bug::AppliedTwice,
        Bug::AnsweredEarly,
        Bug::SaidNoToDone,
        Bug::CountedTwice,
    ];
    let found = |bug| in_parallel(0..80, |seed| simulate(seed, Some(bug)).map(|_| ()));
    let missed: Vec<_> = bugs
        .into_iter()
        .filter(|bug| match found(*bug) {
            Some((seed, how)) => {
                eprintln!("{bug:?}: seed {seed}, {how}");
                false
            }
            None => true,
        })
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn a_vote_that_is_not_synced_is_found_by_what_is_promised_and_not_by_its_consequences() {
    let found = (0..10).find_map(|seed| simulate(seed, Some(Bug::VoteNotSynced)).err());
    let how = found.unwrap();
    assert!(how.contains("told of the vote"), "{how}");
}
