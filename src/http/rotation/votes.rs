//! Whether the fleet can do without a host's vote, and what it waits for if not.

use mxfleet_cluster::{Host, HostState, Member, State, votes_missing};

/// Why the fleet could decide nothing any more without this host, if so: too few of those that are
/// in service then answer. Those that are being emptied do not count, for they leave as well.
pub(super) fn quorum_objection(state: &State, members: &[Member], host: &str) -> Option<String> {
    let leaves = members.iter().find(|member| member.name == host)?;
    if leaves.state == "down" {
        return None; // nobody is lost with it
    }
    let serves = |host: &Host| host.state == HostState::InService;
    let down = missing(state, members, leaves.id, &serves);
    let is = match down.as_slice() {
        [] => return None,
        [_] => "is",
        _ => "are",
    };
    Some(format!(
        "without {host} the fleet has no quorum, since {} {is} down; bring that back first, or \
         give it up with `mxfleet host retire {} --force`",
        down.join(", "),
        down.first().unwrap_or(&"NAME"),
    ))
}

/// What an empty or retired host's vote waits for; `None` once it has none.
pub(super) fn vote_waits_for(state: &State, members: &[Member], host: &Host) -> Option<String> {
    let votes = |member: &Member| member.id == host.id && member.role == "voter";
    if !host.state.stands_down() || !members.iter().any(votes) {
        return None;
    }
    if members.iter().any(|member| member.state == "unknown") {
        return Some("a leader, to take its vote over".to_owned());
    }
    let down = missing(state, members, host.id, &|host| !host.state.stands_down());
    Some(match down.first() {
        None => "its lead and its vote to be taken over".to_owned(),
        Some(first) => format!(
            "{} to answer, for without its vote the fleet could decide nothing; if that is lost, \
             `mxfleet host retire {first} --force` gives it up",
            down.join(", ")
        ),
    })
}

fn missing<'a>(
    state: &State,
    members: &'a [Member],
    leaves: u64,
    stays: &dyn Fn(&Host) -> bool,
) -> Vec<&'a str> {
    let stays = |member: &&Member| member.id != leaves && state.host(member.id).is_some_and(stays);
    let stay: Vec<&Member> = members.iter().filter(stays).collect();
    votes_missing(&stay, state.settings().count("cluster.voters_max"))
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::{Command, HostCommand, Request};

    use super::*;
    use crate::fleet::tests::new_host;

    /// A fleet of mx1 to mx5 whose hosts' ids are their numbers.
    fn fleet() -> State {
        let mut state = State::default();
        change(&mut state, Command::HostFound { host: new_host(1), seed: 1 });
        for n in 2..=5 {
            let name = format!("mx{n}");
            change(&mut state, Command::HostToken { hash: [n; 32], name, expires_ms: 1000 });
            change(&mut state, Command::HostJoin { token: [n; 32], host: new_host(n) });
        }
        state
    }

    fn change(state: &mut State, command: Command) {
        let index = state.applied_index() + 1;
        state.apply(index, &Request::new(index.into(), "ops", 1, command)).unwrap();
    }

    fn drain(state: &mut State, name: &str) {
        let (name, moves) = (name.to_owned(), Vec::new());
        let drain = HostCommand::Drain { name, deadline_ms: None, moves };
        change(state, Command::HostService(drain));
    }

    fn empty(state: &mut State, id: u64) {
        change(state, Command::HostService(HostCommand::MailLeft { id, messages: 0 }));
    }

    /// Role and state of mx1, mx2 and so on.
    fn members(hosts: &[(&'static str, &'static str)]) -> Vec<Member> {
        let member = |(id, (role, state)): (u64, &(&'static str, &'static str))| Member {
            name: format!("mx{id}"),
            id,
            address: String::new(),
            role,
            state,
            lag_entries: None,
            last_contact_seconds: None,
            version: String::new(),
            speaks: Some(1),
        };
        (1..).zip(hosts).map(member).collect()
    }

    const UP: (&str, &str) = ("voter", "up");
    const DOWN: (&str, &str) = ("voter", "down");
    const SPARE: (&str, &str) = ("learner", "up");

    #[test]
    fn a_drain_that_would_leave_no_quorum_is_refused() {
        let mut state = fleet();
        assert_eq!(quorum_objection(&state, &members(&[UP, UP, UP]), "mx1"), None);
        let one_down = members(&[UP, UP, DOWN]);
        let why = quorum_objection(&state, &one_down, "mx1").unwrap();
        assert!(why.contains("mx3 is down") && why.contains("retire mx3 --force"), "{why}");
        assert_eq!(quorum_objection(&state, &one_down, "mx3"), None, "it has no vote to lose");
        assert_eq!(quorum_objection(&state, &one_down, "mx9"), None);
        let spare = members(&[UP, UP, DOWN, SPARE]);
        assert_eq!(quorum_objection(&state, &spare, "mx1"), None, "mx4 votes instead");
        drain(&mut state, "mx4");
        assert!(quorum_objection(&state, &spare, "mx1").is_some(), "mx4 is never to vote");
    }

    #[test]
    fn those_that_leave_already_do_not_count() {
        let mut state = fleet();
        let five = members(&[UP, UP, UP, UP, DOWN]);
        for name in ["mx1", "mx2"] {
            assert_eq!(quorum_objection(&state, &five, name), None);
            drain(&mut state, name);
        }
        let why = quorum_objection(&state, &five, "mx3").unwrap();
        assert!(why.contains("mx5 is down"), "mx4 and mx5 would be left: {why}");
    }

    #[test]
    fn what_a_vote_waits_for_is_said() {
        let mut state = fleet();
        let waits = |state: &State, members: &[Member]| {
            vote_waits_for(state, members, state.host_named("mx1").unwrap())
        };
        let one_down = members(&[UP, DOWN, UP]);
        assert_eq!(waits(&state, &one_down), None, "it is in service");
        drain(&mut state, "mx1");
        empty(&mut state, 1);
        let why = waits(&state, &one_down).unwrap();
        assert!(why.starts_with("mx2 to answer") && why.contains("retire mx2 --force"), "{why}");
        let all_up = members(&[UP, UP, UP]);
        assert!(waits(&state, &all_up).unwrap().contains("its vote to be taken over"));
        let nobody_knows = members(&[UP, ("voter", "unknown"), ("voter", "unknown")]);
        assert!(waits(&state, &nobody_knows).unwrap().contains("a leader"));
        assert_eq!(waits(&state, &members(&[SPARE, DOWN, UP])), None, "its vote is taken");
    }
}
