//! What the pages say of a state, and that nothing in them is taken for markup.

use std::sync::Arc;

use mxfleet_cluster::{Cluster, Command, Member, NoticeCommand, Request, State, random_id};

use super::board::{Board, Level, Seen};
use super::{api, badge, feed, history, home};
use crate::fleet::tests::new_host;

const NOW_MS: u64 = 1_272_463_200_000; // 28 April 2010, 14:00 UTC
const HOUR_MS: u64 = 3_600_000;
const HOSTILE: &str = "<script>alert(1)</script> \"'& \u{ffff}";

/// A fleet of one host, and what was commanded an hour ago.
async fn state(commands: Vec<Command>) -> Arc<State> {
    let cluster = Cluster::detached();
    let host = new_host(1);
    for command in [Command::HostFound { host, seed: 1 }].into_iter().chain(commands) {
        let request = Request::new(random_id(), "test", NOW_MS - HOUR_MS, command);
        cluster.propose(request).await.unwrap().unwrap();
    }
    cluster.view()
}

fn open(title: &str, starts_ms: Option<u64>, ends_ms: Option<u64>) -> Command {
    let (title, text) =
        (title.to_owned(), format!("About it.\n\n{HOSTILE}").replace('\u{ffff}', ""));
    let component = Some("mx1".to_owned());
    Command::Notice(NoticeCommand::Open { title, text, component, starts_ms, ends_ms })
}

fn board(state: Arc<State>, up: &'static str, agreed_ms_ago: Option<u64>) -> Board {
    let members = state.hosts().map(|host| Member {
        name: host.name.clone(),
        id: host.id,
        address: host.address.clone(),
        role: "voter",
        state: up,
        lag_entries: None,
        last_contact_seconds: None,
        version: host.version.clone(),
        speaks: Some(host.speaks),
    });
    let (members, from) = (members.collect(), "mx1".to_owned());
    Board::judge(Seen { members, from, agreed_ms_ago, now_ms: NOW_MS, state })
}

/// Level, sentence, and the condition of the host.
fn said(board: &Board) -> (Level, &str, &str) {
    (board.level, &board.sentence, board.servers[0].condition)
}

#[tokio::test]
async fn the_worst_is_said_first() {
    let (past, soon) = (NOW_MS - HOUR_MS / 2, NOW_MS + HOUR_MS);
    let good = board(state(vec![]).await, "up", Some(0));
    assert_eq!(said(&good), (Level::Good, "All servers take mail", "Takes mail"));
    let planned = open("mx1 moves", Some(soon), None);
    let ahead = board(state(vec![planned.clone()]).await, "up", Some(0));
    assert_eq!(said(&ahead), said(&good));
    assert_eq!(ahead.planned().len(), 1);
    let running = open("mx1 moves", Some(past), Some(soon));
    let outage = board(state(vec![running.clone()]).await, "up", Some(0));
    assert_eq!(said(&outage), (Level::Planned, "mx1 moves", "Planned work"));
    let down = board(state(vec![]).await, "down", Some(0));
    assert_eq!(said(&down), (Level::Reduced, "mx1 does not answer", "Does not answer"));
    let during = board(state(vec![running.clone()]).await, "down", Some(0));
    assert_eq!(said(&during), said(&outage));
    let unheard = board(state(vec![]).await, "unknown", Some(5_000));
    let words = "Some servers have not been heard of just now";
    assert_eq!(said(&unheard), (Level::Reduced, words, "Not known"));
    let issue = board(state(vec![running, open("Mail is late", None, None)]).await, "down", None);
    assert_eq!(said(&issue), (Level::Issue, "Mail is late", "Has an issue"));
}

#[tokio::test]
async fn old_news_is_said_to_be_old() {
    let state = state(vec![]).await;
    let page = |agreed_ms_ago| {
        let board = board(Arc::clone(&state), "unknown", agreed_ms_ago);
        home::render(&board).into_string()
    };
    assert!(!page(Some(59_000)).contains("last agreed"));
    assert!(page(Some(12 * 60_000)).contains("<strong>last agreed 12 minutes ago</strong>"));
    assert!(page(None).contains("last agreed before this server was started"));
}

#[tokio::test]
async fn what_people_write_is_text_on_every_page() {
    let title = HOSTILE.to_owned();
    let update = Command::Notice(NoticeCommand::Update {
        id: 1,
        text: HOSTILE.to_owned(),
        starts_ms: None,
        ends_ms: None,
    });
    let name = "site.title".to_owned();
    let set = Command::SettingSet { name, value: Some("<b>\"Relay\" & co</b>".to_owned()) };
    let board = board(state(vec![open(&title, None, None), update, set]).await, "up", Some(0));
    let row = board.open().next().unwrap();
    let pages = [
        home::render(&board).into_string(),
        history::render(&board, None).into_string(),
        history::notice(&board, row).into_string(),
        feed::render(&board),
        badge::render(&board),
    ];
    for page in &pages {
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;b&gt;"), "{page}");
    }
    assert!(!feed::render(&board).contains('\u{ffff}'));
    let json: serde_json::Value = serde_json::from_str(&api::render(&board)).unwrap();
    assert_eq!(json["open"][0]["title"], title.as_str());
    assert_eq!(
        (&json["status"], &json["service"]),
        (&"issue".into(), &"<b>\"Relay\" & co</b>".into())
    );
}

#[tokio::test]
async fn history_has_every_notice_on_some_page() {
    let commands = (0..120).map(|n| open(&format!("notice {n}"), None, None)).collect();
    let board = board(state(commands).await, "up", Some(0));
    let mut titles = 0;
    let mut before = None;
    loop {
        let page = history::render(&board, before).into_string();
        titles += page.matches("href=\"/notice/").count();
        let Some((_, next)) = page.split_once("/history?before=") else { break };
        before = next.split('"').next().map(|id| id.parse().unwrap());
    }
    assert_eq!(titles, 120);
}
