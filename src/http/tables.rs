//! Admin calls about what the fleet agrees on: customers, domains, settings.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mxfleet_cluster::{
    Clock, Cluster, Command, Customer, CustomerStatus, Domain, DomainChange, Outcome, ProposeError,
    Refusal, Request, Route, RouteError, SETTINGS, Server, State, random_id, render_duration,
};

use super::call::{Call, Changed, CustomerRow, DomainRow, Refused, RefusedKind, SettingRow, Terms};
use super::{domain_name, recipients};
use crate::returns;
use crate::route::{Own, Us};
use crate::system::clock;

/// Of the wrong rows of an import, so many are told.
const WRONG_ROWS_TOLD: usize = 20;

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
        match call {
            Call::DomainRecipients { name, entries: Some(entries) } => {
                return Some(self.set_recipients(name, entries, terms).await);
            }
            Call::DomainReturnPath { name, return_path } => {
                return Some(self.return_path(name, return_path, terms).await);
            }
            Call::DomainStage { import, part, domains } => {
                return Some(self.stage(import, *part, domains, terms).await);
            }
            Call::DomainCommit { import, parts } => {
                return Some(self.commit(import, *parts, terms).await);
            }
            _ => {}
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
            Call::DomainSet { name, customer, route, tls, connections_max, recipients } => {
                let change = self.change(customer, route, tls, connections_max);
                let change = change.and_then(|change| {
                    let recipients = recipients::change(&recipients)?;
                    Ok(DomainChange { recipients, ..change })
                });
                let checked = domain_name(&name).and_then(|name| Ok((name, change?)));
                return Some(checked.map(|(name, change)| Command::DomainSet { name, change }));
            }
            Call::DomainRecipients { name, entries: None } => {
                let domain = domain_name(&name);
                return Some(domain.map(|domain| Command::RecipientsRemove { domain }));
            }
            Call::DomainImport { domains } => {
                let domains = self.domains(&domains);
                return Some(domains.map(|domains| Command::DomainImport { domains }));
            }
            Call::DomainRemove { name } => {
                return Some(domain_name(&name).map(|name| Command::DomainRemove { name }));
            }
            Call::SettingsSet { name, value } => Command::SettingSet { name, value },
            _ => return None,
        }))
    }

    async fn propose(&self, command: Command, terms: &Terms) -> Result<serde_json::Value, Refused> {
        changed(self.cluster.propose(request(command, terms)).await)
    }

    /// A long list goes in parts.
    async fn set_recipients(
        &self,
        name: &str,
        entries: &[String],
        terms: &Terms,
    ) -> Result<serde_json::Value, Refused> {
        let domain = domain_name(name)?;
        let entries = recipients::entries(&domain, entries)?;
        let clock: Clock = Arc::new(clock::wall_ms);
        let request = |command| request(command, terms);
        changed(self.cluster.set_recipients(&domain, &entries, &clock, request).await)
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
    async fn stage(
        &self,
        import: &str,
        part: u32,
        rows: &[DomainRow],
        terms: &Terms,
    ) -> Result<serde_json::Value, Refused> {
        let (import, domains) = (import_id(import)?, self.domains(rows)?);
        let clock: Clock = Arc::new(clock::wall_ms);
        changed(self.cluster.stage_domains(import, part, domains, &terms.actor, &clock).await)
    }

    async fn commit(
        &self,
        import: &str,
        parts: u32,
        terms: &Terms,
    ) -> Result<serde_json::Value, Refused> {
        let import = import_id(import)?;
        let terms = Terms { request_id: Some(import), ..terms.clone() };
        self.propose(Command::DomainCommit { import, parts }, &terms).await
    }

    /// All of the rows, or what is wrong with each that is wrong.
    fn domains(&self, rows: &[DomainRow]) -> Result<Vec<Domain>, Refused> {
        let (good, wrong): (Vec<_>, Vec<_>) =
            rows.iter().map(|row| self.domain(row.clone())).partition(Result::is_ok);
        let mut wrong = wrong.into_iter().filter_map(Result::err).peekable();
        if wrong.peek().is_none() {
            return Ok(good.into_iter().flatten().collect());
        }
        let wrong: Vec<_> = wrong.take(WRONG_ROWS_TOLD).map(|refused| refused.error).collect();
        Err(Refused::invalid(wrong.join("\n")))
    }

    fn domain(&self, row: DomainRow) -> Result<Domain, Refused> {
        let name = domain_name(&row.name)?;
        let fleet = self.cluster.view();
        if (Us { own: &self.own, fleet: &fleet }).is_named(&name) {
            return Err(Refused::invalid(format!("{name} is a name of this fleet's own")));
        }
        let at = |error: &dyn std::fmt::Display| Refused::invalid(format!("{name}: {error}"));
        let route = self.route(&row.route).map_err(|refused| at(&refused))?;
        let tls = row.tls.parse().map_err(|error| at(&error))?;
        let recipients = recipients::policy(&row).map_err(|refused| at(&refused))?;
        let (customer, connections_max) = (row.customer, row.connections_max);
        Ok(Domain { name, customer, route, tls, connections_max, recipients })
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
            ..DomainChange::default()
        })
    }

    /// A route that does not lead back to us.
    fn route(&self, text: &str) -> Result<Route, Refused> {
        let route: Route = text.parse().map_err(invalid)?;
        if let Route::Servers(servers) = &route {
            let fleet = self.cluster.view();
            let us = Us { own: &self.own, fleet: &fleet };
            for server in servers {
                if let Some(why) = objection(us, server) {
                    return Err(Refused::invalid(format!("no mail can go to {server}: {why}")));
                }
            }
        }
        Ok(route)
    }
}

fn request(command: Command, terms: &Terms) -> Request {
    let id = terms.request_id.unwrap_or_else(random_id);
    let mut request = Request::new(id, &terms.actor, clock::wall_ms(), command);
    request.expected_version = terms.expected_version;
    request
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
fn objection(us: Us<'_>, server: &Server) -> Option<&'static str> {
    if us.is_named(&server.host) || server.host == "localhost" && !us.own.allow_loopback {
        return Some("that is this fleet itself, and mail would loop");
    }
    let ip: IpAddr = server.host.parse().ok()?;
    if !us.own.may_be_a_server(ip) {
        return Some("that address is not a host's, or it is this host's own loopback");
    }
    let address = SocketAddr::new(ip, server.port);
    us.is_reached_by(address).then_some("that is this fleet itself, and mail would loop")
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
        names: state.names_of(&customer.id).to_vec(),
        version: state.customer_version(&customer.id),
    }
}

fn domain_row(state: &State, domain: &Domain) -> DomainRow {
    let own = &domain.recipients;
    DomainRow {
        name: domain.name.clone(),
        customer: domain.customer.clone(),
        route: domain.route.to_string(),
        tls: domain.tls.to_string(),
        connections_max: domain.connections_max,
        blacklist: if own.blacklist_off { "off" } else { "on" }.to_owned(),
        blacklist_threshold: own.threshold,
        blacklist_window: own.window_ms.map(render_duration),
        blacklist_hold: own.hold_ms.map(render_duration),
        verify: own.verify.to_string(),
        recipients: state.recipient_list(&domain.name).map(recipients::row),
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

fn import_id(text: &str) -> Result<u128, Refused> {
    u128::from_str_radix(text, 16)
        .map_err(|_| Refused::invalid("the id of an import is a hexadecimal number"))
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
