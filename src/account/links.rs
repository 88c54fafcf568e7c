//! Making links, and sending them to those they are for.

use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Customer, LinkCommand, ProposeError, Refusal, Request, State, random_id,
};
use tokio::time::sleep;

use super::letter;
use super::secret::LinkSecret;
use crate::contacts::{contacts, customers_of};
use crate::post::{Post, PostError};
use crate::smtp::{Address, Letter};
use crate::system::clock::wall_ms;

/// Customers that one contact can ask for at once.
const CUSTOMERS_MAX: usize = 5;
/// How often it is tried to make a link that somebody waits for, and the pause between.
const TRIES: usize = 12;
const PAUSE: Duration = Duration::from_secs(5);

/// What somebody asks links for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A customer's domain, lowercase A-label: all contacts of that customer get the link.
    Domain(String),
    /// One of a customer's contacts: this one gets it.
    Contact(Address),
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It was not decided.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The fleet said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The letter was not queued.
    #[error(transparent)]
    Post(#[from] PostError),
    /// It cannot be known from outside.
    #[error("where the site is reached is not known; set site.url")]
    Nowhere,
    /// Nothing can be kept secret.
    #[error("the system gives no random octets")]
    Entropy,
}

/// Makes links. Clones are handles to the same.
#[derive(Clone)]
pub struct Links {
    cluster: Cluster,
    post: Post,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Links {
    /// Links of this fleet; letters go into this node's queue.
    pub fn new(cluster: Cluster, post: Post) -> Self {
        Self { cluster, post }
    }

    /// A new link to a customer's view, for an operator.
    pub async fn issue(&self, customer: &str, actor: &str) -> Result<LinkSecret, LinkError> {
        let (secret, request) = request(customer, actor, false)?;
        self.cluster.propose(request).await??;
        Ok(secret)
    }

    /// Write to whoever is asked for and may be written to now; nobody, if there is none. Takes its
    /// time: nobody is to learn from it whether there is a letter.
    pub async fn mail(&self, asked: &Asked) {
        let (state, asked) = (self.cluster.view(), asked.clone());
        let looking = tokio::task::spawn_blocking(move || recipients(&state, &asked));
        let found = looking.await.unwrap_or_else(|error| {
            tracing::error!(%error, "who is sent a link could not be looked up");
            Vec::new()
        });
        for (customer, to) in found {
            let id = &customer.id;
            if !self.cluster.view().may_mail_link(id, wall_ms()) {
                tracing::info!(customer = id, "no further link is mailed within this hour");
            } else if let Err(error) = self.mail_to(&customer, &to).await {
                tracing::warn!(customer = id, %error, "a link is not mailed");
            } else {
                tracing::info!(customer = id, "a link is on its way to its contacts");
            }
        }
    }

    async fn mail_to(&self, customer: &Customer, to: &[Address]) -> Result<(), LinkError> {
        let message = self.post.spool.begin(0).map_err(PostError::from)?;
        let (secret, request) = request(&customer.id, &actor(customer), true)?;
        // A link that is made counts as a letter, and there are few.
        let state = self.cluster.view();
        let url = url(&state, &secret).ok_or(LinkError::Nowhere)?;
        self.post.sender(&state)?;
        self.decide(request).await?;
        let state = self.cluster.view();
        let known = state.customer_of_link(&secret.hash(), wall_ms());
        let life_ms = state.settings().duration_ms("customer.link_life");
        let ends_ms = known.map_or_else(|| wall_ms().saturating_add(life_ms), |(_, ends)| ends);
        let service = state.settings().get("site.title").unwrap_or_default();
        let text = letter::compose(customer, service, &url, ends_ms, random_id());
        let letter = Letter::Link { link_of: customer.id.clone() };
        Ok(self.post.queue(message, &state, to, &text, letter).await?)
    }

    /// The visitor was told that a link is on its way: one try is not enough.
    async fn decide(&self, request: Request) -> Result<(), LinkError> {
        let mut tries = 1;
        loop {
            match self.cluster.propose(request.clone()).await {
                Err(ProposeError::NoQuorum | ProposeError::Unknown { .. }) if tries < TRIES => {
                    tries += 1;
                    sleep(PAUSE).await;
                }
                decided => {
                    decided??;
                    return Ok(());
                }
            }
        }
    }

    /// Pardon a recipient for whoever holds this link; whether there was anything to pardon.
    pub async fn pardon(
        &self,
        secret: &LinkSecret,
        customer: &Customer,
        address: String,
    ) -> Result<bool, LinkError> {
        let command = LinkCommand::Pardon { hash: secret.hash(), address };
        Ok(self.change(customer, command).await? > 0)
    }

    /// End a link for whoever holds it.
    pub async fn end(&self, secret: &LinkSecret, customer: &Customer) -> Result<(), LinkError> {
        self.change(customer, LinkCommand::End { hash: secret.hash() }).await?;
        Ok(())
    }

    async fn change(&self, customer: &Customer, command: LinkCommand) -> Result<u64, LinkError> {
        let command = Command::CustomerLink(command);
        let request = Request::new(random_id(), actor(customer), wall_ms(), command);
        Ok(self.cluster.propose(request).await??)
    }
}

/// The address of a link as people type it; `None` when nobody knows where the site is reached.
pub fn url(state: &State, secret: &LinkSecret) -> Option<String> {
    let site = state.settings().get("site.url").filter(|site| !site.is_empty())?;
    Some(format!("{site}{}", secret.path()))
}

/// Who does it, for the audit trail.
fn actor(customer: &Customer) -> String {
    format!("customer {}", customer.id)
}

fn request(customer: &str, actor: &str, by_mail: bool) -> Result<(LinkSecret, Request), LinkError> {
    let secret = LinkSecret::new().ok_or(LinkError::Entropy)?;
    let (hash, customer) = (secret.hash(), customer.to_owned());
    let command = Command::CustomerLink(LinkCommand::Issue { hash, customer, by_mail });
    Ok((secret, Request::new(random_id(), actor, wall_ms(), command)))
}

/// The customers that somebody asks for, and which of their contacts are written to, as the table
/// has them.
fn recipients(state: &State, asked: &Asked) -> Vec<(Customer, Vec<Address>)> {
    let found: Vec<_> = match asked {
        Asked::Domain(domain) => {
            let customer = state.domain(domain).and_then(|row| state.customer(&row.customer));
            customer.into_iter().map(|row| (row.clone(), contacts(row))).collect()
        }
        Asked::Contact(address) => {
            let all = customers_of(state, address, CUSTOMERS_MAX).into_iter();
            all.map(|(row, to)| (row.clone(), to)).collect()
        }
    };
    found.into_iter().filter(|(_, to)| !to.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::{CustomerStatus, Domain, RecipientPolicy, TlsPolicy};

    use super::*;

    async fn state() -> std::sync::Arc<State> {
        let cluster = Cluster::detached();
        let customer = |id: &str, contacts: &[&str]| {
            Command::CustomerAdd(Customer {
                id: id.to_owned(),
                name: id.to_owned(),
                contacts: contacts.iter().map(ToString::to_string).collect(),
                status: CustomerStatus::Active,
            })
        };
        let domain = |name: &str, customer: &str| {
            Command::DomainAdd(Domain {
                name: name.to_owned(),
                customer: customer.to_owned(),
                route: "mx".parse().unwrap(),
                tls: TlsPolicy::Opportunistic,
                connections_max: None,
                recipients: RecipientPolicy::default(),
            })
        };
        for command in [
            customer("acme", &["Ops@Acme.test", "boss@acme.test"]),
            customer("bolt", &["ops@acme.test", "bad@-"]),
            customer("mute", &["bad@-"]),
            domain("acme.test", "acme"),
            domain("mute.test", "mute"),
        ] {
            let request = Request::new(random_id(), "test", 0, command);
            cluster.propose(request).await.unwrap().unwrap();
        }
        cluster.view()
    }

    fn found(state: &State, asked: &Asked) -> Vec<String> {
        let words = |(customer, to): (Customer, Vec<Address>)| {
            let to: Vec<String> = to.iter().map(ToString::to_string).collect();
            format!("{}: {}", customer.id, to.join(" "))
        };
        recipients(state, asked).into_iter().map(words).collect()
    }

    #[tokio::test]
    async fn a_domain_reaches_all_contacts_and_a_contact_only_itself() {
        let state = state().await;
        let domain = |name: &str| found(&state, &Asked::Domain(name.to_owned()));
        assert_eq!(domain("acme.test"), ["acme: Ops@Acme.test boss@acme.test"]);
        assert!(domain("mute.test").is_empty() && domain("else.test").is_empty());
        let contact = |text| found(&state, &Asked::Contact(Address::parse(text, true).unwrap()));
        assert_eq!(contact("oPs@acme.TEST"), ["acme: Ops@Acme.test", "bolt: ops@acme.test"]);
        assert_eq!(contact("boss@acme.test"), ["acme: boss@acme.test"]);
        assert!(contact("boss@bolt.test").is_empty());
    }

    #[tokio::test]
    async fn a_link_needs_a_site_that_is_reached_somewhere() {
        let state = state().await;
        let secret = LinkSecret::new().unwrap();
        assert_eq!(url(&state, &secret), None);
    }
}
