//! When a name may end: who would lose mail, as far as anybody can see, and what an operator says
//! who looks after DNS by hand.

use super::*;

fn remove(n: usize) -> Command {
    Command::Name(NameCommand::Remove { name: name(n), force: false })
}

fn status(bench: &Bench, n: usize) -> Option<NameStatus> {
    bench.state.name(&name(n)).map(MxName::status)
}

#[test]
fn the_removal_of_a_name_can_be_said_again_whatever_began_it() {
    let mut bench = Bench::new(4, 0);
    bench.must(plan(&[1], &[(5, 1)], bench.now_ms + DAY_MS));
    bench.must(announce());
    bench.settle();
    bench.must(Command::Migration(MigrationCommand::Finish { force: true }));
    bench.must(retire(2, bench.now_ms + 1));
    bench.now_ms += 1;
    bench.must(remove(2));
    bench.must(plan(&[], &[(6, 2)], bench.now_ms + DAY_MS));
    bench.must(announce());
    bench.publish_one(6);
    bench.must(CANCEL);
    for n in [1, 2, 6] {
        assert_ne!(status(&bench, n), Some(NameStatus::Removed), "DNS has {}", name(n));
        assert_eq!(bench.must(remove(n)), 0, "{}", name(n));
        bench.publish_one(n);
    }
    assert_eq!([1, 2].map(|n| status(&bench, n)), [Some(NameStatus::Removed); 2]);
    assert_eq!(status(&bench, 6), None, "its introduction was cancelled");
    assert!(bench.why(remove(1)).contains("was removed already"));
}

impl Bench {
    /// Every name server says what it shall of this name.
    fn publish_one(&mut self, n: usize) {
        let wanted = self.state.name(&name(n)).unwrap().wanted(self.now_ms, self.state.ttl());
        let (host, ttl_s) = (wanted.map(|(host, _)| host), wanted.map_or(0, |(_, ttl)| ttl));
        self.must(published(&name(n), host, ttl_s));
    }
}
