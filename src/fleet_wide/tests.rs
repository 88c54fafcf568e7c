//! Three nodes of a real fleet in one process.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use mxfleet_cluster::{CLUSTER_VERSION, ClusterConfig};

use super::*;

/// Doubles numbers, and not all of them.
#[derive(Debug)]
struct Doubles;

impl Answers for Doubles {
    const TOPIC: Topic = Topic::PROBE;
    type Question = u32;
    type Answer = String;

    async fn answer(&self, question: u32) -> Result<String, String> {
        match question {
            0 => Err("nothing is not doubled".to_owned()),
            1 => std::future::pending().await,
            2 => Ok("x".repeat(ANSWER_OCTETS_MAX)),
            other => Ok((2 * other).to_string()),
        }
    }
}

fn free() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn config(dir: &std::path::Path, name: &str) -> ClusterConfig {
    ClusterConfig {
        dir: dir.join(name),
        listen: free(),
        advertise: None,
        version: "0.1.0".to_owned(),
        speaks: CLUSTER_VERSION,
        clock: Arc::new(crate::system::clock::wall_ms),
        observer: Arc::new(|_| ()),
        segmentation_offload: false,
    }
}

async fn fleet(dir: &std::path::Path, names: &[&str]) -> Vec<Cluster> {
    let first = config(dir, names[0]);
    Cluster::init(&first, names[0]).unwrap();
    let mut fleet = vec![Cluster::start(first).await.unwrap()];
    for name in &names[1..] {
        let config = config(dir, name);
        let token = loop {
            // A fleet that has just changed may need a moment.
            match fleet[0].token(name, 60_000, "test").await {
                Ok(token) => break token,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let peer = fleet[0].address().unwrap();
        Cluster::join(&config, name, peer, &token).await.unwrap();
        fleet.push(Cluster::start(config).await.unwrap());
    }
    let mut applied = fleet[0].watch();
    while fleet[0].view().hosts().count() < names.len() {
        applied.changed().await.unwrap();
    }
    fleet
}

async fn all(asked: Asked<String>) -> Vec<(String, Result<String, NoAnswer>)> {
    let (nodes, mut answers) = (asked.nodes, asked.answers);
    let mut all = Vec::new();
    while let Some(heard) = answers.recv().await {
        all.push((heard.node, heard.answer));
    }
    all.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(all.iter().map(|(node, _)| node.clone()).collect::<Vec<_>>(), nodes);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_for_itself_and_a_silent_one_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet(dir.path(), &["mx1", "mx2", "mx3"]).await;
    let ask = FleetWide::new(fleet[0].clone(), "mx1", Doubles);
    let _other = FleetWide::new(fleet[1].clone(), "mx2", Doubles);
    let heard = |answers: [Result<&str, NoAnswer>; 3]| {
        let names = ["mx1", "mx2", "mx3"].map(str::to_owned);
        let answers = answers.map(|answer| answer.map(str::to_owned));
        names.into_iter().zip(answers).collect::<Vec<_>>()
    };
    let refused = |why: &str| Err(NoAnswer::Refused(why.to_owned()));
    let within = Duration::from_secs(20);
    let young = "the node does not answer such calls yet";
    assert_eq!(all(ask.ask(&21, within)).await, heard([Ok("42"), Ok("42"), refused(young)]));
    let no = "nothing is not doubled";
    assert_eq!(all(ask.ask(&0, within)).await, heard([refused(no), refused(no), refused(young)]));
    // Nobody is sent a page that is too long to be one.
    let long = all(ask.ask(&2, within)).await;
    assert_eq!(long[1].1, Err(NoAnswer::Silent));
    fleet[2].shutdown().await;
    let asked = Instant::now();
    let late = all(ask.ask(&1, Duration::from_secs(2))).await;
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert_eq!(late[..2], heard([Err(NoAnswer::Late(2)), Err(NoAnswer::Late(2)), Ok("")])[..2]);
    assert!(matches!(late[2].1, Err(NoAnswer::Silent | NoAnswer::Late(2))), "{late:?}");
}

#[tokio::test]
async fn what_is_not_understood_is_refused_in_words() {
    let answers = FleetWide::new(Cluster::detached(), "mx1", Doubles);
    let reply = |body: &'static [u8]| {
        let inner = Arc::clone(&answers.inner);
        async move { serde_json::to_string(&inner.reply(body).await).unwrap() }
    };
    let strange = r#"{"reply":"refused","value":"this node does not understand the question"}"#;
    assert_eq!(reply(b"{\"newer\": true}").await, strange);
    assert_eq!(reply(b"").await, strange);
    assert!(reply(&[b' '; QUESTION_OCTETS_MAX + 1]).await.contains("too long"));
    assert_eq!(reply(b"4").await, r#"{"reply":"answer","value":"8"}"#);
    let asked = answers.ask(&4, PATIENCE);
    assert_eq!(all(asked).await, [("mx1".to_owned(), Ok("8".to_owned()))]);
}
