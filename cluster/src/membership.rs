//! Raft's membership follows the hosts table: the leader compares them and takes one step a time.
//!
//! So a join, a removal or a promotion that was begun under one leader is finished under the next.

use std::collections::BTreeMap;

use crate::raft::NodeId;
use crate::status::Member;

/// A voter this silent is replaced by a learner that is up, if there is one. A leader that has just
/// begun has not heard anybody: silence before that does not count.
const LOST_MS: u64 = 60_000;
/// A node that answered this lately is up.
const UP_MS: u64 = 2_000;
/// A leader this new keeps the lead: it has hardly heard who else is up, and what waited for a
/// leader is decided before another is looked for.
const LED_LEAST_MS: u64 = 5_000;
/// A learner this close may vote.
const CLOSE_ENTRIES: u64 = 100;

/// What the leader knows of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// In the hosts table.
    pub(crate) wanted: bool,
    /// An operator wants it to vote before others.
    pub(crate) preferred: bool,
    /// It is to follow, and not to vote: its host is empty, or out of service.
    pub(crate) stands_down: bool,
    /// In Raft's membership, and voting.
    pub(crate) role: Option<Role>,
    pub(crate) lag_entries: Option<u64>,
    pub(crate) silent_ms: Option<u64>,
}

/// A member's part in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Voter,
    Learner,
}

/// One change of Raft's membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// To another voter, whichever is elected.
    TransferLead,
    AddLearner(NodeId),
    Promote(NodeId),
    /// `down` stays as a learner.
    Swap {
        up: NodeId,
        down: NodeId,
    },
    Demote(NodeId),
    RemoveVoter(NodeId),
    RemoveLearner(NodeId),
}

impl Seen {
    fn votes(&self) -> bool {
        self.role == Some(Role::Voter)
    }

    fn is_up(&self) -> bool {
        self.silent_ms.is_some_and(|ms| ms <= UP_MS)
    }

    /// A voter that is to stay one.
    fn keeps_vote(&self) -> bool {
        self.votes() && self.wanted && !self.stands_down
    }

    fn may_vote(&self) -> bool {
        self.wanted
            && !self.stands_down
            && self.role == Some(Role::Learner)
            && self.is_up()
            && self.lag_entries.is_some_and(|lag| lag <= CLOSE_ENTRIES)
    }
}

/// How many shall vote in a fleet of `hosts`: an odd number, except in a fleet of two, where both
/// keep what was acknowledged.
fn voters_wanted(hosts: usize, voters_max: usize) -> usize {
    match hosts.min(voters_max) {
        count @ 0..=2 => count,
        count => count - (count + 1) % 2,
    }
}

/// Whether so many that answer are most of those that vote, and of those that are to vote.
fn is_quorum(up: usize, voters: usize, wanted: usize) -> bool {
    2 * up > voters.max(wanted)
}

/// Hosts that must answer first, if the fleet would have no quorum with the votes of these alone;
/// empty when it would. `voters_max` is the setting `cluster.voters_max`.
pub fn votes_missing<'a>(stay: &[&'a Member], voters_max: u64) -> Vec<&'a str> {
    let wanted = voters_wanted(stay.len(), usize::try_from(voters_max).unwrap_or(usize::MAX));
    let down: Vec<&str> = stay
        .iter()
        .filter(|member| member.state != "up")
        .map(|member| member.name.as_str())
        .collect();
    let up = (stay.len() - down.len()).min(wanted);
    if is_quorum(up, wanted, wanted) { Vec::new() } else { down }
}

/// The next step, if one is due. `me` leads, since `led_ms`.
pub(crate) fn next_step(
    nodes: &BTreeMap<NodeId, Seen>,
    me: NodeId,
    voters_max: usize,
    led_ms: u64,
) -> Option<Step> {
    let find = |wanted: &dyn Fn(&NodeId, &Seen) -> bool| {
        nodes.iter().find(|(id, seen)| wanted(id, seen)).map(|(id, _)| *id)
    };
    if let Some(id) = find(&|_, seen| seen.wanted && seen.role.is_none()) {
        return Some(Step::AddLearner(id));
    }
    if let Some(id) =
        find(&|id, seen| *id != me && !seen.wanted && seen.role == Some(Role::Learner))
    {
        return Some(Step::RemoveLearner(id));
    }
    let candidate = find(&|_, seen| seen.may_vote() && seen.preferred)
        .or_else(|| find(&|_, seen| seen.may_vote()));
    let hosts = nodes.values().filter(|seen| seen.wanted && !seen.stands_down).count();
    let voters = nodes.values().filter(|seen| seen.votes()).count();
    let wanted = voters_wanted(hosts, voters_max);
    if let Some(step) = leave(nodes, me, wanted, candidate) {
        return Some(step);
    }
    if nodes.get(&me).is_some_and(|seen| !seen.keeps_vote()) {
        // The next leader takes this one's vote: openraft cannot take its own leader away.
        return match find(&|id, seen| *id != me && seen.keeps_vote() && seen.is_up()) {
            Some(_) => (led_ms >= LED_LEAST_MS).then_some(Step::TransferLead),
            None => candidate.map(Step::Promote),
        };
    }
    if nodes.values().filter(|seen| seen.keeps_vote()).count() > wanted {
        return nodes
            .iter()
            .filter(|(id, seen)| **id != me && seen.keeps_vote())
            .max_by_key(|(id, seen)| (!seen.is_up(), !seen.preferred, **id))
            .map(|(id, _)| Step::Demote(*id));
    }
    let up = candidate?;
    if voters < wanted {
        return Some(Step::Promote(up));
    }
    let is_lost = |seen: &Seen| seen.silent_ms.unwrap_or(u64::MAX).min(led_ms) > LOST_MS;
    let lost = find(&|id, seen| *id != me && seen.votes() && is_lost(seen));
    let less_wanted = find(&|id, seen| *id != me && seen.votes() && !seen.preferred);
    let preferred = nodes.get(&up).is_some_and(|seen| seen.preferred);
    let down = lost.or(if preferred { less_wanted } else { None })?;
    Some(Step::Swap { up, down })
}

/// How a voter that is to vote no more leaves, if one can.
///
/// **Invariant:** one that answers keeps its vote until most of those that vote after it answer, so
/// that whoever is lost while a host is emptied, the fleet can still decide.
fn leave(
    nodes: &BTreeMap<NodeId, Seen>,
    me: NodeId,
    wanted: usize,
    candidate: Option<NodeId>,
) -> Option<Step> {
    let voters = nodes.values().filter(|seen| seen.votes()).count();
    let up = nodes.values().filter(|seen| seen.votes() && seen.is_up()).count();
    let mut leaving: Vec<(NodeId, &Seen)> = nodes
        .iter()
        .filter(|(id, seen)| **id != me && seen.votes() && !seen.keeps_vote())
        .map(|(id, seen)| (*id, seen))
        .collect();
    // Without a vote that nobody hears, more of the others can be done without.
    leaving.sort_by_key(|(_, seen)| seen.is_up());
    leaving.into_iter().find_map(|(down, seen)| {
        // A removed one ends by itself.
        let is_lost = !seen.wanted || !seen.is_up();
        let swap = candidate.map(|up| Step::Swap { up, down });
        let swap = swap.filter(|_| is_lost || is_quorum(up, voters, wanted));
        let leave = if seen.wanted { Step::Demote(down) } else { Step::RemoveVoter(down) };
        let leave = Some(leave).filter(|_| {
            voters > 1 && (is_lost || is_quorum(up.saturating_sub(1), voters - 1, wanted))
        });
        // Its place is filled before a voter leaves, so that the quorum does not shrink on the way.
        if voters <= wanted { swap.or(leave) } else { leave.or(swap) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{
        BTreeMap, LED_LEAST_MS, LOST_MS, Member, NodeId, Role, Seen, Step, UP_MS, voters_wanted,
        votes_missing,
    };

    /// Under a leader of long standing.
    fn next_step(nodes: &BTreeMap<NodeId, Seen>, me: NodeId, max: usize) -> Option<Step> {
        super::next_step(nodes, me, max, u64::MAX)
    }

    fn seen(role: Option<Role>) -> Seen {
        let (lag_entries, silent_ms) = (Some(0), Some(0));
        let (preferred, stands_down) = (false, false);
        Seen { wanted: true, preferred, stands_down, role, lag_entries, silent_ms }
    }

    fn fleet(voters: u64, learners: u64) -> BTreeMap<NodeId, Seen> {
        let voter = (1..=voters).map(|id| (id, seen(Some(Role::Voter))));
        let learner = (voters + 1..=voters + learners).map(|id| (id, seen(Some(Role::Learner))));
        voter.chain(learner).collect()
    }

    #[test]
    fn a_host_that_joined_becomes_a_learner_and_then_a_voter() {
        let mut nodes = fleet(1, 0);
        nodes.insert(2, seen(None));
        assert_eq!(next_step(&nodes, 1, 5), Some(Step::AddLearner(2)));
        nodes.insert(2, Seen { lag_entries: Some(5000), ..seen(Some(Role::Learner)) });
        assert_eq!(next_step(&nodes, 1, 5), None, "too far behind");
        nodes.insert(2, Seen { silent_ms: None, ..seen(Some(Role::Learner)) });
        assert_eq!(next_step(&nodes, 1, 5), None, "never heard of");
        assert_eq!(next_step(&fleet(1, 1), 1, 5), Some(Step::Promote(2)));
    }

    #[test]
    fn the_number_of_voters_is_odd_and_limited() {
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 50].map(|hosts| voters_wanted(hosts, 5)),
            [1, 2, 3, 3, 5, 5, 5]
        );
        assert_eq!(next_step(&fleet(3, 1), 1, 5), None);
        assert_eq!(next_step(&fleet(3, 2), 1, 5), Some(Step::Promote(4)));
        assert_eq!(next_step(&fleet(5, 3), 1, 5), None);
        assert_eq!(next_step(&fleet(5, 0), 5, 3), Some(Step::Demote(4)));
    }

    #[test]
    fn a_lost_or_leaving_voter_is_replaced_where_that_is_possible() {
        let mut nodes = fleet(3, 1);
        nodes.insert(2, Seen { silent_ms: Some(LOST_MS + 1), ..seen(Some(Role::Voter)) });
        assert_eq!(next_step(&nodes, 1, 5), Some(Step::Swap { up: 4, down: 2 }));
        nodes.remove(&4);
        assert_eq!(next_step(&nodes, 1, 5), None);
        let gone = Seen { wanted: false, ..seen(Some(Role::Voter)) };
        let mut nodes = fleet(3, 0);
        nodes.insert(3, gone);
        assert_eq!(next_step(&nodes, 1, 5), Some(Step::RemoveVoter(3)));
        let mut nodes = fleet(5, 1);
        nodes.insert(2, gone);
        assert_eq!(next_step(&nodes, 1, 5), Some(Step::Swap { up: 6, down: 2 }));
    }

    #[test]
    fn a_leader_that_leaves_gives_the_lead_to_another_first() {
        let drained = Seen { stands_down: true, ..seen(Some(Role::Voter)) };
        let removed = Seen { wanted: false, ..seen(Some(Role::Voter)) };
        // A leader may be lost between the halves of a change that takes its successor's vote.
        for me in [drained, removed, seen(Some(Role::Learner))] {
            let mut nodes = fleet(3, 1);
            nodes.insert(1, me);
            let soon = super::next_step(&nodes, 1, 5, LED_LEAST_MS - 1);
            assert!(!matches!(soon, Some(Step::TransferLead)), "{soon:?}");
            assert_eq!(next_step(&nodes, 1, 5), Some(Step::TransferLead));
            let silent = Seen { silent_ms: Some(UP_MS + 1), ..seen(Some(Role::Voter)) };
            nodes.extend([(2, silent), (3, drained)]);
            assert_ne!(next_step(&nodes, 1, 5), Some(Step::TransferLead), "to nobody");
        }
        let mut nodes = fleet(1, 1);
        nodes.insert(1, drained);
        assert_eq!(next_step(&nodes, 1, 5), Some(Step::Promote(2)), "there is nobody else");
        nodes.remove(&2);
        assert_eq!(next_step(&nodes, 1, 5), None, "the last one stays");
    }

    #[test]
    fn a_voter_that_stands_down_is_replaced_or_follows() {
        let down = Seen { stands_down: true, ..seen(Some(Role::Voter)) };
        let mut nodes = fleet(3, 1);
        nodes.insert(1, down);
        assert_eq!(next_step(&nodes, 2, 5), Some(Step::Swap { up: 4, down: 1 }));
        let mut nodes = fleet(3, 0);
        nodes.insert(1, down);
        assert_eq!(next_step(&nodes, 2, 5), Some(Step::Demote(1)));
        nodes.insert(1, Seen { stands_down: true, ..seen(Some(Role::Learner)) });
        assert_eq!(next_step(&nodes, 2, 5), None, "and is not promoted again");
    }

    const SILENT: Option<u64> = Some(UP_MS + 1);

    #[test]
    fn a_voter_that_answers_stays_until_most_of_those_after_it_do() {
        let drained = Seen { stands_down: true, ..seen(Some(Role::Voter)) };
        let silent = Seen { silent_ms: SILENT, ..seen(Some(Role::Voter)) };
        let mut nodes = fleet(3, 0);
        nodes.extend([(1, drained), (2, silent)]);
        assert_eq!(next_step(&nodes, 3, 5), None, "3 alone is no quorum of 2 and 3");
        // Nor is the silent one's vote taken so that the drained one's may be.
        let retired = Seen { stands_down: true, ..seen(Some(Role::Learner)) };
        nodes.insert(4, retired);
        assert_eq!(next_step(&nodes, 3, 5), None, "4 is out of service, and takes no vote");
        nodes.insert(4, seen(Some(Role::Learner)));
        assert_eq!(next_step(&nodes, 3, 5), Some(Step::Swap { up: 4, down: 1 }));
        nodes.insert(4, retired);
        nodes.insert(2, seen(Some(Role::Voter)));
        assert_eq!(next_step(&nodes, 3, 5), Some(Step::Demote(1)), "2 is back");
        // An operator gives the silent one up: it goes first.
        nodes.insert(2, Seen { stands_down: true, ..silent });
        assert_eq!(next_step(&nodes, 3, 5), Some(Step::Demote(2)));
    }

    #[test]
    fn of_many_that_leave_as_many_do_as_can() {
        let mut nodes = fleet(5, 0);
        nodes.insert(5, Seen { silent_ms: SILENT, ..seen(Some(Role::Voter)) });
        for id in 1..=3 {
            nodes.insert(id, Seen { stands_down: true, ..seen(Some(Role::Voter)) });
        }
        settle(&mut nodes, 4);
        let votes = |nodes: &BTreeMap<NodeId, Seen>| -> Vec<NodeId> {
            nodes.iter().filter(|(_, seen)| seen.votes()).map(|(id, _)| *id).collect()
        };
        assert_eq!(votes(&nodes), [3, 4, 5], "3 stays, for 4 and 5 are no quorum without 5");
        nodes.insert(5, Seen { silent_ms: Some(0), ..nodes[&5] });
        settle(&mut nodes, 4);
        assert_eq!(votes(&nodes), [4, 5]);
    }

    /// Take all steps there are, under whoever leads.
    fn settle(nodes: &mut BTreeMap<NodeId, Seen>, mut me: NodeId) {
        for _ in 0..60 {
            let Some(step) = next_step(nodes, me, 5) else { return };
            if step == Step::TransferLead {
                let next = nodes.iter().find(|(_, seen)| seen.keeps_vote() && seen.is_up());
                me = *next.unwrap().0;
            }
            take(nodes, step);
            let voters = || nodes.values().filter(|seen| seen.votes());
            let up = voters().filter(|seen| seen.is_up()).count();
            assert!(2 * up > voters().count(), "no quorum after {step:?}: {nodes:#?}");
        }
        panic!("it does not come to rest: {nodes:#?}");
    }

    fn take(nodes: &mut BTreeMap<NodeId, Seen>, step: Step) {
        let mut set = |id, role| {
            nodes.insert(id, Seen { role: Some(role), ..nodes[&id] });
        };
        match step {
            Step::TransferLead => {}
            Step::AddLearner(id) | Step::Demote(id) => set(id, Role::Learner),
            Step::Promote(id) => set(id, Role::Voter),
            Step::Swap { up, down } => {
                set(up, Role::Voter);
                set(down, Role::Learner);
            }
            Step::RemoveVoter(id) | Step::RemoveLearner(id) => {
                nodes.remove(&id);
            }
        }
    }

    /// Up, stands down, voter.
    fn hosts() -> impl Strategy<Value = Vec<(bool, bool, bool)>> {
        let up = prop::bool::weighted(0.6);
        vec((up, any::<bool>(), any::<bool>()), 1..9)
    }

    proptest! {
        #[test]
        fn whoever_leaves_a_quorum_answers_at_every_step(hosts in hosts()) {
            let of = |(up, stands_down, votes): &(bool, bool, bool)| Seen {
                stands_down: *stands_down,
                silent_ms: if *up { Some(0) } else { SILENT },
                ..seen(Some(if *votes { Role::Voter } else { Role::Learner }))
            };
            let mut nodes: BTreeMap<NodeId, Seen> = (1..).zip(hosts.iter().map(of)).collect();
            let leader = 1;
            nodes.insert(leader, Seen { silent_ms: Some(0), ..seen(Some(Role::Voter)) });
            // There is a quorum at first: of those that are silent so many follow only.
            for id in 2..=hosts.len() as u64 {
                let voters = || nodes.values().filter(|seen| seen.votes());
                let up = voters().filter(|seen| seen.is_up()).count();
                if 2 * up <= voters().count() && !nodes[&id].is_up() {
                    nodes.insert(id, Seen { role: Some(Role::Learner), ..nodes[&id] });
                }
            }
            let first = nodes[&leader];
            nodes.insert(leader, Seen { stands_down: hosts[0].1, ..first });
            settle(&mut nodes, leader);

            // Whoever waits then does so for what operators are told.
            let member = |id: &NodeId, seen: &Seen| Member {
                name: format!("mx{id}"),
                id: *id,
                address: String::new(),
                role: "voter",
                state: if seen.is_up() { "up" } else { "down" },
                lag_entries: None,
                last_contact_seconds: None,
                version: String::new(),
                speaks: None,
            };
            let stay: Vec<Member> = nodes
                .iter()
                .filter(|(_, seen)| !seen.stands_down)
                .map(|(id, seen)| member(id, seen))
                .collect();
            let missing = votes_missing(&stay.iter().collect::<Vec<_>>(), 5);
            let waits = nodes.values().any(|s| s.votes() && s.stands_down && s.is_up());
            if waits && !stay.is_empty() {
                prop_assert!(!missing.is_empty(), "for nothing: {:#?}", nodes);
            }
        }
    }

    #[test]
    fn a_new_leader_gives_everybody_time_to_be_heard() {
        for silent_ms in [None, Some(LOST_MS * 10)] {
            let mut nodes = fleet(3, 1);
            nodes.insert(2, Seen { silent_ms, ..seen(Some(Role::Voter)) });
            assert_eq!(super::next_step(&nodes, 1, 5, 0), None);
            assert_eq!(super::next_step(&nodes, 1, 5, LOST_MS), None);
            let swap = Some(Step::Swap { up: 4, down: 2 });
            assert_eq!(super::next_step(&nodes, 1, 5, LOST_MS + 1), swap);
        }
    }

    #[test]
    fn a_preferred_learner_takes_a_voters_place() {
        let mut nodes = fleet(3, 1);
        nodes.insert(4, Seen { preferred: true, ..seen(Some(Role::Learner)) });
        assert_eq!(next_step(&nodes, 1, 5), Some(Step::Swap { up: 4, down: 2 }));
    }

    #[test]
    fn every_fleet_comes_to_rest() {
        for (voters, learners, max) in [(1, 6, 5), (5, 4, 3), (3, 0, 1), (2, 2, 5)] {
            let mut nodes = fleet(voters, learners);
            for _ in 0..20 {
                match next_step(&nodes, 1, max) {
                    None | Some(Step::TransferLead) => break,
                    Some(step) => take(&mut nodes, step),
                }
            }
            assert_eq!(next_step(&nodes, 1, max), None);
        }
    }
}
