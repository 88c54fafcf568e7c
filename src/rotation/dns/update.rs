//! Updates (RFC 2136): all of the sets change, or none, and only if they are as they were read.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::exchange::{ExchangeError, message_id};
use super::sets::{Data, Set, SetName, Sets};

/// The update that brings `changed` from what was `found` to what is `wanted`.
pub(super) fn compose(
    zone: &str,
    changed: &[SetName],
    found: &Sets,
    wanted: &Sets,
) -> Result<Message, ExchangeError> {
    let none = Set::default();
    let mut message = Message::new(message_id(), MessageType::Query, OpCode::Update);
    let mut query = Query::query(name(zone)?, RecordType::SOA);
    query.set_query_class(DNSClass::IN);
    message.add_query(query);
    for set in changed {
        let owner = name(&set.name)?;
        let was = found.get(set).unwrap_or(&none);
        let shall = wanted.get(set).unwrap_or(&none);
        for record in prerequisite(&owner, set.kind, was) {
            // An alias stands in the place of every type.
            if record.record_type() != RecordType::CNAME || !message.answers.contains(&record) {
                message.add_answer(record);
            }
        }
        message.add_authorities(replacement(&owner, set.kind, was, shall));
    }
    Ok(message)
}

/// The same for a new name, and only if nobody has an address or an alias there.
pub(super) fn compose_new(
    zone: &str,
    sets: &[SetName],
    found: &Sets,
    wanted: &Sets,
) -> Result<Message, ExchangeError> {
    let is_below = |set: &SetName| set.name != set.mx_name();
    let found = found.iter().filter(|(set, _)| is_below(set));
    let found = found.map(|(set, is)| (set.clone(), is.clone())).collect();
    let mut message = compose(zone, sets, &found, wanted)?;
    if let Some(set) = sets.first() {
        message.add_answer(empty(&name(set.mx_name())?, RecordType::CNAME, DNSClass::NONE));
    }
    Ok(message)
}

/// RFC 2136 section 2.4.2, the set exists with this value, or 2.4.3, it does not exist.
fn prerequisite(owner: &Name, kind: RecordType, was: &Set) -> Vec<Record> {
    let data: Vec<RData> = was.data.iter().filter_map(Data::to_rdata).collect();
    if data.is_empty() {
        return vec![empty(owner, kind, DNSClass::NONE)];
    }
    data.into_iter().map(|data| Record::from_rdata(owner.clone(), 0, data)).collect()
}

/// RFC 2136 section 2.5.2, delete the set, and 2.5.1, add to it. Where there is an alias, nothing
/// can be added (section 3.4.2.2).
fn replacement(owner: &Name, kind: RecordType, was: &Set, shall: &Set) -> Vec<Record> {
    let alias = was.data.iter().any(|data| matches!(data, Data::Alias(_)));
    let alias = alias.then(|| empty(owner, RecordType::CNAME, DNSClass::ANY));
    let data = shall.data.iter().filter_map(Data::to_rdata);
    let added = data.map(|data| Record::from_rdata(owner.clone(), shall.ttl_s, data));
    alias.into_iter().chain([empty(owner, kind, DNSClass::ANY)]).chain(added).collect()
}

fn empty(owner: &Name, kind: RecordType, class: DNSClass) -> Record {
    let mut record = Record::update0(owner.clone(), 0, kind);
    record.dns_class = class;
    record
}

pub(super) fn name(text: &str) -> Result<Name, ExchangeError> {
    let mut name = Name::from_ascii(text)
        .map_err(|error| ExchangeError::Unusable(text.to_owned(), error.to_string()))?;
    name.set_fqdn(true);
    Ok(name)
}
