//! Questions and updates to one name server, over TCP: nothing is cut, nothing forged in between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::{RecordType, TSigner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::sets::{Data, Set, SetName, Sets};
use super::update::name;
use crate::system::random::random_u64;

const CONNECT: Duration = Duration::from_secs(3);
/// A whole exchange, of many questions or one update.
const EXCHANGE: Duration = Duration::from_secs(20);
/// Questions on their way at a time.
const PIPELINE: usize = 50;

/// Why a name server did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(in crate::rotation) enum ExchangeError {
    #[error("{0} cannot be reached: {1}")]
    Unreachable(SocketAddr, io::Error),
    #[error("{0} did not answer in time")]
    Late(SocketAddr),
    #[error("{0} gave an answer that makes no sense: {1}")]
    Nonsense(SocketAddr, String),
    #[error("{0} does not serve the zone (it is {1} for {2})")]
    NotServed(SocketAddr, &'static str, String),
    /// This update is not taken; another one may be.
    #[error("{server} refuses the update: {why}")]
    Refused { server: SocketAddr, why: String },
    /// No update of ours is taken.
    #[error("{server} refuses the update: {why}")]
    Unwelcome { server: SocketAddr, why: String },
    #[error(
        "{server} has records of {name} that are not the fleet's: {what}; take them out there if \
         the name shall be the fleet's, or else remove the name here, which leaves them alone"
    )]
    Taken { server: SocketAddr, name: String, what: String },
    #[error("{0} was changed by somebody else at that moment; it is tried again")]
    Changed(SocketAddr),
    #[error("{0} cannot be in DNS: {1}")]
    Unusable(String, String),
}

impl ExchangeError {
    /// Whether another name may fare better.
    pub(super) fn may_be_one_names(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Changed(_) | Self::Unusable(..))
    }
}

/// What a server has of the sets that it was asked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sets: Sets,
    /// Why it does not tell the others.
    pub(super) untold: BTreeMap<SetName, ExchangeError>,
}

/// An id for a message of ours.
pub(super) fn message_id() -> u16 {
    let [low, high, ..] = random_u64().to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// What the server has of these sets.
pub(super) async fn read_sets(
    server: SocketAddr,
    sets: impl Iterator<Item = &SetName>,
) -> Result<Found, ExchangeError> {
    let mut found = Found::default();
    let mut left: BTreeSet<&SetName> = sets.collect();
    let work = async {
        while !left.is_empty() {
            let before = left.len();
            match ask(server, &mut left, &mut found).await {
                // It may close when it likes (RFC 7766 section 6.2.3); it is asked for the rest.
                Err(ExchangeError::Unreachable(..)) if left.len() < before => {}
                asked => asked?,
            }
        }
        Ok(found)
    };
    timeout(EXCHANGE, work).await.map_err(|_| ExchangeError::Late(server))?
}

/// Ask over one connection, as long as it answers; what it said is no longer `left`.
async fn ask(
    server: SocketAddr,
    left: &mut BTreeSet<&SetName>,
    found: &mut Found,
) -> Result<(), ExchangeError> {
    let mut stream = connect(server).await?;
    while !left.is_empty() {
        let asked: Vec<&SetName> = left.iter().copied().take(PIPELINE).collect();
        let first = message_id();
        let mut questions = Vec::new();
        for (at, set) in (0..).zip(&asked) {
            let mut question = Message::query();
            question.metadata.id = first.wrapping_add(at);
            question.add_query(Query::query(name(&set.name)?, set.kind));
            frame(server, &question, &mut questions)?;
        }
        let sent = stream.write_all(&questions).await;
        sent.map_err(|error| ExchangeError::Unreachable(server, error))?;
        for _ in &asked {
            let answer = parse(server, &receive(server, &mut stream).await?)?;
            let at = usize::from(answer.id.wrapping_sub(first));
            let Some(set) = asked.get(at) else {
                return Err(nonsense(server, "it is for another question"));
            };
            if !left.remove(set) {
                return Err(nonsense(server, "it answers one question twice"));
            }
            match set_of(server, &answer, set) {
                Ok(data) => drop(found.sets.insert((*set).clone(), data)),
                Err(error) => drop(found.untold.insert((*set).clone(), error)),
            }
        }
    }
    Ok(())
}

fn set_of(server: SocketAddr, answer: &Message, asked: &SetName) -> Result<Set, ExchangeError> {
    let not_served = |what| ExchangeError::NotServed(server, what, asked.name.clone());
    match answer.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        ResponseCode::Refused => return Err(not_served("refusing to answer")),
        ResponseCode::ServFail => return Err(not_served("failing")),
        other => return Err(nonsense(server, &other.to_string())),
    }
    if !answer.authoritative {
        return Err(not_served("no authority"));
    }
    if answer.truncation {
        return Err(nonsense(server, "it is cut short"));
    }
    let owner = name(&asked.name)?;
    let mut set = Set::default();
    for record in &answer.answers {
        // An alias in the name's place counts as data that is not to be there. Where it leads is
        // not the name's own.
        let is_asked = record.record_type() == asked.kind;
        if record.name == owner && (is_asked || record.record_type() == RecordType::CNAME) {
            set.ttl_s = record.ttl;
            set.data.insert(Data::of(&record.data));
        }
    }
    Ok(set)
}

/// Send an update, signed at `now_s` (seconds since 1970), and see that it was done.
pub(super) async fn send_update(
    server: SocketAddr,
    mut update: Message,
    key: Option<&TSigner>,
    now_s: u64,
) -> Result<(), ExchangeError> {
    let mut verifier = None;
    if let Some(key) = key {
        let signed = update.finalize(key, now_s);
        verifier = signed.map_err(|error| nonsense(server, &error.to_string()))?;
    }
    let work = async {
        let mut stream = connect(server).await?;
        let mut bytes = Vec::new();
        frame(server, &update, &mut bytes)?;
        stream.write_all(&bytes).await.map_err(|e| ExchangeError::Unreachable(server, e))?;
        receive(server, &mut stream).await
    };
    let bytes = timeout(EXCHANGE, work).await.map_err(|_| ExchangeError::Late(server))??;
    let answer = parse(server, &bytes)?;
    if answer.id != update.id || answer.op_code != OpCode::Update {
        return Err(nonsense(server, "it is for another update"));
    }
    let refused = |why: String| ExchangeError::Refused { server, why };
    let unwelcome = |why: String| ExchangeError::Unwelcome { server, why };
    let objection = answer.signature().and_then(|record| record.data.error.as_ref());
    if let Some(objection) = objection {
        return Err(unwelcome(about_key(objection, key)));
    }
    match answer.response_code {
        ResponseCode::NoError => {}
        ResponseCode::YXRRSet | ResponseCode::NXRRSet | ResponseCode::YXDomain => {
            return Err(ExchangeError::Changed(server));
        }
        ResponseCode::Refused if key.is_none() => {
            return Err(unwelcome(
                "it was not signed; give this node dns.tsig_key_file".to_owned(),
            ));
        }
        ResponseCode::Refused => {
            return Err(refused(format!("the key {} may not", key_name(key))));
        }
        ResponseCode::NotAuth => {
            return Err(unwelcome(format!(
                "it is not the zone's primary, or does not know the key {}",
                key_name(key)
            )));
        }
        other => return Err(refused(other.to_string())),
    }
    match verifier {
        Some(mut verifier) => verifier
            .verify(&bytes)
            .map(drop)
            .map_err(|error| nonsense(server, &format!("its signature: {error}"))),
        None => Ok(()),
    }
}

fn about_key(objection: &TsigError, key: Option<&TSigner>) -> String {
    let name = key_name(key);
    match objection {
        TsigError::BadKey => format!("it does not know the key {name} (BADKEY)"),
        TsigError::BadSig => format!("it has another secret for the key {name} (BADSIG)"),
        TsigError::BadTime => "its clock and ours differ too much (BADTIME)".to_owned(),
        other => format!("the key {name}: {other:?}"),
    }
}

fn key_name(key: Option<&TSigner>) -> String {
    key.map_or_else(|| "(none)".to_owned(), |key| key.signer_name().to_string())
}

async fn connect(server: SocketAddr) -> Result<TcpStream, ExchangeError> {
    let connected = timeout(CONNECT, TcpStream::connect(server)).await;
    let connected = connected.map_err(|_| ExchangeError::Late(server))?;
    connected.map_err(|error| ExchangeError::Unreachable(server, error))
}

/// RFC 1035 section 4.2.2: two octets of length before a message.
fn frame(server: SocketAddr, message: &Message, out: &mut Vec<u8>) -> Result<(), ExchangeError> {
    let bytes = message.to_vec().map_err(|error| nonsense(server, &error.to_string()))?;
    let length = u16::try_from(bytes.len());
    let length = length.map_err(|_| nonsense(server, "ours is longer than 64 KiB"))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&bytes);
    Ok(())
}

async fn receive(server: SocketAddr, stream: &mut TcpStream) -> Result<Vec<u8>, ExchangeError> {
    let failed = |error| ExchangeError::Unreachable(server, error);
    let length = stream.read_u16().await.map_err(failed)?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

fn parse(server: SocketAddr, bytes: &[u8]) -> Result<Message, ExchangeError> {
    Message::from_vec(bytes).map_err(|error| nonsense(server, &error.to_string()))
}

fn nonsense(server: SocketAddr, why: &str) -> ExchangeError {
    ExchangeError::Nonsense(server, why.to_owned())
}

#[cfg(test)]
mod tests;
