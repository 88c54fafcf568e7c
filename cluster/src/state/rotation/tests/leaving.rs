//! Hosts that leave: what goes with them, and what comes back.

use super::*;

fn left(id: u64, messages: u64) -> Command {
    Command::HostService(HostCommand::MailLeft { id, messages })
}

#[test]
fn only_a_retired_host_is_removed_unless_it_is_lost() {
    let mut bench = Bench::new(0, 0);
    let why = bench.why(remove_host(1, false));
    assert!(why.contains("not retired") && why.contains("host drain mx1"), "{why}");
    bench.must(bench.drain(1));
    bench.must(left(1, 5000));
    assert!(bench.why(remove_host(1, false)).contains("not retired"), "with 5000 messages");
    bench.must(left(1, 0));
    for command in bench.state.due(bench.now_ms) {
        bench.must(command);
    }
    bench.must(remove_host(1, false));
    assert!(bench.state.host_named("mx1").is_none());

    bench.must(remove_host(2, true));
    assert!(bench.state.host_named("mx2").is_none(), "it was lost");
}

#[test]
fn a_lost_host_with_names_is_retired_first_and_its_names_go_elsewhere() {
    let mut bench = Bench::new(4, 0);
    assert!(bench.why(remove_host(1, true)).contains("host retire mx1 --force"));
    let moves = vec![(name(1), host(2))];
    bench.must(Command::HostService(HostCommand::Retire { name: host(1), force: true, moves }));
    bench.must(remove_host(1, false));
    bench.settle();
    let row = bench.state.name(&name(1)).unwrap();
    assert_eq!((row.home, row.target), (2, Some(2)));
}
