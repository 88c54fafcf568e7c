//! Servers that answer as they should not.

use std::net::IpAddr;

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

fn address() -> Data {
    Data::Address(IpAddr::from(ADDRESS))
}

#[tokio::test]
async fn one_that_closes_after_an_answer_is_asked_for_the_rest() {
    let first = |questions: Vec<Message>| vec![answer_to(&questions[0])];
    let found = read_sets(server(first).await.unwrap(), asked().iter()).await.unwrap();
    assert_eq!(found.sets.len(), 3);
    assert!(found.sets.values().all(|set| set.data.contains(&address())));
}

#[tokio::test]
async fn one_that_closes_without_an_answer_is_not_asked_again() {
    let none = |_: Vec<Message>| Vec::new();
    let error = read_sets(server(none).await.unwrap(), asked().iter()).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Unreachable(..)), "{error}");
}

#[tokio::test]
async fn a_second_answer_to_one_question_does_not_stand_for_another() {
    let twice = |questions: Vec<Message>| vec![answer_to(&questions[0]); 3];
    let error = read_sets(server(twice).await.unwrap(), asked().iter()).await.unwrap_err();
    assert!(error.to_string().contains("one question twice"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_cut_short_tells_nothing_of_its_set() {
    let cut = |questions: Vec<Message>| {
        let mut answers: Vec<Message> = questions.iter().map(answer_to).collect();
        answers[1].metadata.truncation = true;
        answers[1].answers.clear();
        answers
    };
    let sets = asked();
    let found = read_sets(server(cut).await.unwrap(), sets.iter()).await.unwrap();
    assert_eq!((found.sets.len(), found.sets.get(&sets[1])), (2, None));
    assert!(found.untold[&sets[1]].to_string().contains("cut short"));
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
