//! Servers that answer as they should not.

use hickory_proto::op::MessageType;
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{RData, Record};
use tokio::net::TcpListener;

use super::*;

const ADDRESS: [u8; 4] = [192, 0, 2, 1];

fn asked() -> Vec<SetName> {
    let set = |n| SetName { name: format!("mx-{n}.relay.test"), kind: RecordType::A };
    (1..=3).map(set).collect()
}

/// The answer to a question: the address.
fn answer_to(question: &Message) -> Message {
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.authoritative = true;
    let owner = question.queries[0].name().clone();
    answer.add_answer(Record::from_rdata(owner, 60, RData::A(A(ADDRESS.into()))));
    answer
}

/// A server that is given the questions of each connection, and what it says to them.
async fn server(
    answers: impl Fn(Vec<Message>) -> Vec<Message> + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // All of them come in one write.
            let mut bytes = vec![0; 4096];
            let length = stream.read(&mut bytes).await.unwrap();
            let mut left = &bytes[..length];
            let mut questions = Vec::new();
            while let [high, low, rest @ ..] = left {
                let (question, rest) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
                questions.push(parse(address, question).unwrap());
                left = rest;
            }
            let mut out = Vec::new();
            for answer in answers(questions) {
                frame(address, &answer, &mut out).unwrap();
            }
            stream.write_all(&out).await.unwrap();
        }
    });
    Ok(address)
}

#[tokio::test]
async fn what_an_alias_leads_to_is_not_the_names_own() {
    let alias = |questions: Vec<Message>| {
        let with_alias = |question: &Message| {
            let mut answer = answer_to(question);
            let owner = question.queries[0].name().clone();
            let other = name("other.relay.test").unwrap();
            answer.answers[0].name = other.clone();
            answer.add_answer(Record::from_rdata(owner, 60, RData::CNAME(CNAME(other))));
            answer
        };
        questions.iter().map(with_alias).collect()
    };
    let found = read_sets(server(alias).await.unwrap(), asked().iter()).await.unwrap();
    let alone = [Data::Alias("other.relay.test.".to_owned())].into();
    assert!(found.sets.values().all(|set| set.data == alone), "{:?}", found.sets);
}
