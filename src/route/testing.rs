//! A name server for tests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

/// What a name has, and how its server answers.
#[derive(Clone)]
pub(crate) enum Zone {
    /// These records, whatever is asked for.
    Has(Vec<RData>),
    /// It fails.
    ServFail,
    /// It does not answer.
    Silent,
}

/// A name server on loopback for as long as the test runs.
pub(crate) async fn serve(zones: HashMap<String, Zone>) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::Relaxed);
            let query = Message::from_vec(&buffer[..length]).unwrap();
            if let Some(response) = answer(&zones, query) {
                socket.send_to(&response.to_vec().unwrap(), peer).await.unwrap();
            }
        }
    });
    (address, asked)
}

fn answer(zones: &HashMap<String, Zone>, query: Message) -> Option<Message> {
    let question = query.queries.first()?.clone();
    let mut response = query.into_response();
    response.metadata.recursion_available = true;
    let mut name = question.name().clone();
    loop {
        let data = match zones.get(&name.to_ascii().trim_end_matches('.').to_ascii_lowercase()) {
            Some(Zone::Has(data)) => data,
            Some(Zone::ServFail) => {
                response.metadata.response_code = ResponseCode::ServFail;
                return Some(response);
            }
            Some(Zone::Silent) => return None,
            None => {
                response.metadata.response_code = ResponseCode::NXDomain;
                return Some(response);
            }
        };
        let mut alias = None;
        for one in data {
            if one.record_type() == question.query_type() || one.record_type() == RecordType::CNAME
            {
                response.add_answer(Record::from_rdata(name.clone(), 60, one.clone()));
            }
            if let RData::CNAME(target) = one {
                alias = Some(target.0.clone());
            }
        }
        match alias {
            Some(target) => name = target,
            None => return Some(response),
        }
    }
}
