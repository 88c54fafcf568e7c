//! A dialog with a server as it is said, line by line, without sending anything.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::connect::{Passed, Watch};
use super::examine::{Grade, grade_of, version, words};
use super::{Client, Hop};
use crate::smtp::{Address, Answer, Reply, Response, Stage};

/// Lines that are kept of a dialog; a server may have much to say.
const LINES_MAX: usize = 80;

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// This node, to the server.
    Node,
    /// The server.
    Server,
    /// This node, about the connection.
    Note,
}

/// A line of a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// Who said it.
    pub by: Speaker,
    /// Without its line end. It is not ours, and not made plain.
    pub line: String,
    /// What it means for mail, at the end of an answer.
    pub grade: Option<Grade>,
}

impl Client {
    /// Talk with the server at `hop` as if there were mail for it, within `within` in all: the
    /// connection as [`Client::connect`] makes it, MAIL FROM:<>, RCPT for `postmaster`, QUIT. No
    /// message is offered.
    pub async fn converse(&self, hop: &Hop, postmaster: &Address, within: Duration) -> Vec<Spoken> {
        let dialog = Dialog::default();
        let watch = |passed: Passed<'_>| dialog.passed(&passed);
        match timeout(within, self.talk(hop, postmaster, &watch)).await {
            Ok(Ok(())) => {}
            // It has been heard.
            Ok(Err(Response { answer: Answer::Reply(_), .. })) => {}
            Ok(Err(response)) => {
                dialog.say(Speaker::Note, &words(&response), Some(Grade::Bad));
            }
            Err(_) => {
                let words = format!("no end after {} seconds, broken off", within.as_secs());
                dialog.say(Speaker::Note, &words, Some(Grade::Bad));
            }
        }
        dialog.said.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn talk(
        &self,
        hop: &Hop,
        postmaster: &Address,
        watch: Watch<'_>,
    ) -> Result<(), Response> {
        let mut wire = self.connect_watched(hop, watch).await?.into_wire();
        if self.ask(&mut wire, "MAIL FROM:<>\r\n", Stage::Mail, watch).await?.is_positive() {
            let rcpt = format!("RCPT TO:<{postmaster}>\r\n");
            self.ask(&mut wire, &rcpt, Stage::Rcpt, watch).await?;
        }
        // Some servers hang up instead of an answer, and nothing hangs on it.
        let _ = self.ask(&mut wire, "QUIT\r\n", Stage::Rcpt, watch).await;
        wire.close().await;
        Ok(())
    }
}

/// What was said so far.
#[derive(Default)]
struct Dialog {
    said: Mutex<Vec<Spoken>>,
}

impl Dialog {
    fn passed(&self, passed: &Passed<'_>) {
        match passed {
            Passed::Said(line) => self.say(Speaker::Node, line, None),
            Passed::Heard(reply) => self.hear(reply),
            Passed::Secured(wire) => {
                let words = format!("{} from here on", version(wire));
                self.say(Speaker::Note, &words, Some(Grade::Good));
            }
            Passed::InTheClear(why) => {
                let words = format!("{why}: again, and in the clear");
                self.say(Speaker::Note, &words, Some(Grade::Fair));
            }
            Passed::Connected | Passed::Banner(_) | Passed::Offers(_) => {}
        }
    }

    fn say(&self, by: Speaker, line: &str, grade: Option<Grade>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < LINES_MAX || grade.is_some() {
            said.push(Spoken { by, line: line.to_owned(), grade });
        }
    }

    fn hear(&self, reply: &Reply) {
        let mut text = Vec::new();
        reply.write_to(&mut text);
        let text = String::from_utf8_lossy(&text);
        let last = reply.lines.len().saturating_sub(1);
        for (place, line) in text.lines().enumerate() {
            let grade = (place == last).then(|| grade_of(reply));
            self.say(Speaker::Server, line, grade);
        }
    }
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::TlsPolicy;

    use super::super::testing::{Server, client};
    use super::*;

    const OFFER: &str = "> 220 mx\n< EHLO\n> 250-mx\n> 250 STARTTLS\n";
    const BROKEN: &str = "< STARTTLS\n> 220 go\n> this is not TLS at all";

    async fn said(server: &Server, tls: TlsPolicy) -> Vec<(Speaker, String, Option<Grade>)> {
        let postmaster = Address::parse("postmaster@example.test", false).unwrap();
        let within = Duration::from_secs(20);
        let said = client().converse(&server.hop(tls), &postmaster, within).await;
        said.into_iter().map(|spoken| (spoken.by, spoken.line, spoken.grade)).collect()
    }

    #[tokio::test]
    async fn after_a_failed_handshake_it_goes_on_in_the_clear_as_delivery_does() {
        let clear = "< MAIL FROM:<>\n> 250 ok\n< RCPT TO:<postmaster@example.test>\n> 450 busy\n\
                     < QUIT\n> 221 bye";
        let scripts = [format!("{OFFER}{BROKEN}"), format!("{OFFER}{clear}")];
        let server = Server::start(&scripts.each_ref().map(|script| script.as_str())).await;
        let said = said(&server, TlsPolicy::Opportunistic).await;
        let (last, note) = (&said[said.len() - 3..], &said[6]);
        assert_eq!(last[0].1, "450 busy", "{said:?}");
        assert_eq!(last[0].2, Some(Grade::Fair));
        assert_eq!((&*last[1].1, &*last[2].1), ("QUIT", "221 bye"));
        assert_eq!((note.0, note.2), (Speaker::Note, Some(Grade::Fair)), "{said:?}");
        assert!(note.1.ends_with(": again, and in the clear"), "{said:?}");
        server.seen().await;
    }

    #[tokio::test]
    async fn where_tls_is_demanded_it_ends_as_delivery_does() {
        let server = Server::start(&[&format!("{OFFER}{BROKEN}")]).await;
        let said = said(&server, TlsPolicy::Require).await;
        let last = said.last().unwrap();
        assert_eq!((last.0, last.2), (Speaker::Note, Some(Grade::Bad)), "{said:?}");
        assert!(last.1.starts_with("TLS is required for this domain: "), "{said:?}");
        assert!(said.iter().all(|(_, line, _)| !line.starts_with("MAIL")), "{said:?}");
    }
}
