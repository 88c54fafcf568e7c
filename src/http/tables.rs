//! Admin calls about what the fleet agrees on: customers, domains, settings.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mxfleet_cluster::{
    Clock, Cluster, Command, Customer, CustomerStatus, Domain, DomainChange, Outcome, ProposeError,
    Refusal, Request, Route, RouteError, SETTINGS, Server, State, random_id,
};

use super::call::{Call, Changed, CustomerRow, DomainRow, Refused, RefusedKind, SettingRow, Terms};
use crate::returns;
use crate::route::Own;
use crate::smtp::address::domain_to_ascii;
use crate::system::clock;

/// Who changes things over the admin socket, for the audit trail.
const ACTOR: &str = "admin socket";

/// The tables, with what a route must not lead to.
pub struct Tables {
    cluster: Cluster,
    own: Arc<Own>,
}

impl Tables {
    /// Calls are answered from, and proposed to, `cluster`; routes are held against `own`.
    pub fn new(cluster: Cluster, own: Arc<Own>) -> Self {
        Self { cluster, own }
    }

    /// Answer a call about a table; `None` when the call is about something else.
    pub async fn answer(
        &self,
        call: &Call,
        terms: &Terms,
    ) -> Option<Result<serde_json::Value, Refused>> {
        if let Some(answer) = read(&self.cluster.view(), call) {
            return Some(answer);
        }
        if let Call::DomainImport { domains } = call {
            return Some(self.import(domains.clone()).await);
        }
        if let Call::DomainReturnPath { name, return_path } = call {
            return Some(self.return_path(name, return_path, terms).await);
        }
        let command = self.command(call)?;
        Some(match command {
            Ok(command) => self.propose(command, terms).await,
            Err(refused) => Err(refused),
        })
    }

    /// The command a call asks for; `None` when it asks for none.
    fn command(&self, call: &Call) -> Option<Result<Command, Refused>> {
        Some(Ok(match call.clone() {
            Call::CustomerAdd { id, name, contacts } => {
                let name = name.unwrap_or_else(|| id.clone());
                let status = CustomerStatus::Active;
                Command::CustomerAdd(Customer { id, name, contacts, status })
            }
            Call::CustomerSet { id, name, contacts } => Command::CustomerSet { id, name, contacts },
            Call::CustomerSuspend { id } => {
                Command::CustomerStatus { id, status: CustomerStatus::Suspended }
            }
            Call::CustomerResume { id } => {
                Command::CustomerStatus { id, status: CustomerStatus::Active }
            }
            Call::CustomerRemove { id } => Command::CustomerRemove { id },
            Call::DomainAdd(row) => return Some(self.domain(row).map(Command::DomainAdd)),
            Call::DomainSet { name, customer, route, tls, connections_max } => {
                let change = self.change(customer, route, tls, connections_max);
                let checked = domain_name(&name).and_then(|name| Ok((name, change?)));
                return Some(checked.map(|(name, change)| Command::DomainSet { name, change }));
            }
            Call::DomainRemove { name } => {
                return Some(domain_name(&name).map(|name| Command::DomainRemove { name }));
            }
            Call::SettingsSet { name, value } => Command::SettingSet { name, value },
            _ => return None,
        }))
    }

    async fn propose(&self, command: Command, terms: &Terms) -> Result<serde_json::Value, Refused> {
        let id = terms.request_id.unwrap_or_else(random_id);
        let mut request = Request::new(id, ACTOR, clock::wall_ms(), command);
        request.expected_version = terms.expected_version;
        changed(self.cluster.propose(request).await)
    }

    /// The first domain with return paths of ours needs a key that signs them.
    async fn return_path(
        &self,
        name: &str,
        return_path: &str,
        terms: &Terms,
    ) -> Result<serde_json::Value, Refused> {
        let tagged = match return_path {
            "tagged" => true,
            "plain" => false,
            _ => return Err(Refused::invalid("a return path is `tagged` or `plain`".to_owned())),
        };
        let domain = domain_name(name)?;
        if tagged {
            let made = returns::ensure(&self.cluster).await;
            made.map_err(|error| Refused::unavailable(error.to_string()))?;
        }
        self.propose(Command::ReturnPathSet { domain, tagged }, terms).await
    }

    /// Many rows go in parts, so that no log entry is large.
    async fn import(&self, rows: Vec<DomainRow>) -> Result<serde_json::Value, Refused> {
        let domains =
            rows.into_iter().map(|row| self.domain(row)).collect::<Result<Vec<_>, _>>()?;
        let clock: Clock = Arc::new(clock::wall_ms);
        changed(self.cluster.import_domains(&domains, ACTOR, &clock, |_| ()).await)
    }

    fn domain(&self, row: DomainRow) -> Result<Domain, Refused> {
        let name = domain_name(&row.name)?;
        if self.own.is_named(&name) {
            return Err(Refused::invalid(format!("{name} is this node's own name")));
        }
        let at = |error: &dyn std::fmt::Display| Refused::invalid(format!("{name}: {error}"));
        let route = self.route(&row.route).map_err(|refused| at(&refused))?;
        let tls = row.tls.parse().map_err(|error| at(&error))?;
        let (customer, connections_max) = (row.customer, row.connections_max);
        Ok(Domain { name, customer, route, tls, connections_max })
    }

    fn change(
        &self,
        customer: Option<String>,
        route: Option<String>,
        tls: Option<String>,
        connections_max: Option<u32>,
    ) -> Result<DomainChange, Refused> {
        Ok(DomainChange {
            customer,
            route: route.map(|text| self.route(&text)).transpose()?,
            tls: tls.map(|text| text.parse().map_err(invalid)).transpose()?,
            connections_max: connections_max.map(|count| (count != 0).then_some(count)),
        })
    }

    /// A route that does not lead back to us.
    fn route(&self, text: &str) -> Result<Route, Refused> {
        let route: Route = text.parse().map_err(invalid)?;
        if let Route::Servers(servers) = &route {
            for server in servers {
                if let Some(why) = objection(&self.own, server) {
                    return Err(Refused::invalid(format!("no mail can go to {server}: {why}")));
                }
            }
        }
        Ok(route)
    }
}

pub(super) fn changed(
    decided: Result<Outcome, ProposeError>,
) -> Result<serde_json::Value, Refused> {
    match decided {
        Ok(Ok(changed)) => Ok(serde_json::json!(Changed { changed })),
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(error) => Err(Refused::unavailable(error.to_string())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn invalid(error: RouteError) -> Refused {
    Refused::invalid(error.to_string())
}

/// Why a server can be no customer's server.
fn objection(own: &Own, server: &Server) -> Option<&'static str> {
    if own.is_named(&server.host) || server.host == "localhost" && !own.allow_loopback {
        return Some("that is this fleet itself, and mail would loop");
    }
    let ip: IpAddr = server.host.parse().ok()?;
    if !own.may_be_a_server(ip) {
        return Some("that address is not a host's, or it is this host's own loopback");
    }
    let address = SocketAddr::new(ip, server.port);
    own.is_reached_by(address).then_some("that is this node itself, and mail would loop")
}

/// Answer from the last applied state.
fn read(state: &State, call: &Call) -> Option<Result<serde_json::Value, Refused>> {
    Some(match call {
        Call::CustomerList => Ok(serde_json::json!(
            state.customers().map(|c| customer_row(state, c)).collect::<Vec<_>>()
        )),
        Call::CustomerShow { id } => match state.customer(id) {
            Some(customer) => Ok(serde_json::json!(customer_row(state, customer))),
            None => Err(Refused::not_found(format!("there is no customer {id}"))),
        },
        Call::DomainList => {
            Ok(serde_json::json!(state.domains().map(|d| domain_row(state, d)).collect::<Vec<_>>()))
        }
        Call::DomainShow { name } => {
            let found =
                domain_name(name).map(|name| state.domain(&name).map(|d| domain_row(state, d)));
            found.and_then(|row| match row {
                Some(row) => Ok(serde_json::json!(row)),
                None => Err(Refused::not_found(format!("there is no domain {name}"))),
            })
        }
        Call::SettingsList => Ok(serde_json::json!(
            SETTINGS.iter().filter_map(|s| setting_row(state, s.name)).collect::<Vec<_>>()
        )),
        Call::SettingsGet { name } => match setting_row(state, name) {
            Some(row) => Ok(serde_json::json!(row)),
            None => Err(Refused::not_found(format!(
                "there is no setting {name}; `mxfleet settings list` shows them all"
            ))),
        },
        _ => return None,
    })
}

fn customer_row(state: &State, customer: &Customer) -> CustomerRow {
    let status = match customer.status {
        CustomerStatus::Active => "active",
        CustomerStatus::Suspended => "suspended",
    };
    CustomerRow {
        id: customer.id.clone(),
        name: customer.name.clone(),
        status: status.to_owned(),
        contacts: customer.contacts.clone(),
        version: state.customer_version(&customer.id),
    }
}

fn domain_row(state: &State, domain: &Domain) -> DomainRow {
    DomainRow {
        name: domain.name.clone(),
        customer: domain.customer.clone(),
        route: domain.route.to_string(),
        tls: domain.tls.to_string(),
        connections_max: domain.connections_max,
        return_path: match state.has_tagged_return_path(&domain.name) {
            true => "tagged".to_owned(),
            false => "plain".to_owned(),
        },
        version: state.domain_version(&domain.name),
    }
}

fn setting_row(state: &State, name: &str) -> Option<SettingRow> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name)?;
    Some(SettingRow {
        name: name.to_owned(),
        value: state.settings().get(name)?.to_owned(),
        default: setting.default.to_owned(),
        about: setting.about.to_owned(),
        caution: setting.caution.to_owned(),
        version: state.setting_version(name),
    })
}

fn domain_name(text: &str) -> Result<String, Refused> {
    let name = text.strip_suffix('.').unwrap_or(text);
    domain_to_ascii(name)
        .map(String::from)
        .map_err(|_| Refused::invalid(format!("{} is not a domain name", text.escape_debug())))
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::NotFound(_) => RefusedKind::NotFound,
            Refusal::Conflict(_) => RefusedKind::Conflict,
            Refusal::Invalid(_) => RefusedKind::Invalid,
        };
        Self { error: refusal.to_string(), kind }
    }
}
