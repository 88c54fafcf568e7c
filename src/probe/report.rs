//! What nodes are asked about customers' servers, and what they answer.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::client::{self, Grade, Speaker, Spoken, Step};
use crate::smtp::is_unprintable;

/// Words of one finding; some of them are a far server's.
const WORDS_MAX: usize = 300;

/// A way to look at servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// Step by step, each judged, as delivery would.
    Mx,
    /// The dialog as it is said.
    Smtp,
    /// ICMP echoes, and the time of a connection.
    Ping,
    /// The routers on the way.
    Traceroute,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asker {
    /// An operator, who has set the route.
    Operator,
    /// Somebody on the site.
    Visitor,
}

/// Look at the servers of a customer's domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// How.
    pub tool: Tool,
    /// The domain.
    pub domain: String,
    /// Who wants to know.
    pub asker: Asker,
}

/// What one node saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Each address of each server, in order of preference.
    pub servers: Vec<Seen>,
}

/// One address of a server, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The server's name.
    pub server: String,
    /// `None` when it has none that may be looked at.
    pub address: Option<SocketAddr>,
    /// What was found, in order.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How good it is; `None` where it is only told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grade: Option<Grade>,
    /// In words. Nothing in them drives a terminal, and they may be a far server's.
    pub words: String,
    /// What was looked at.
    #[serde(flatten)]
    pub what: What,
}

/// What was looked at. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum What {
    /// A step towards the delivery of mail.
    Step {
        /// Which.
        step: Step,
    },
    /// A line of a dialog.
    Line {
        /// Who said it.
        by: Speaker,
    },
    /// ICMP echoes.
    Echo {
        /// How many were sent.
        sent: u32,
        /// How many came back.
        received: u32,
        /// The shortest time one took.
        min_us: Option<u64>,
        /// The mean of all.
        avg_us: Option<u64>,
        /// The longest time one took.
        max_us: Option<u64>,
    },
    /// A connection to the SMTP port.
    Port {
        /// How long it took.
        time_us: Option<u64>,
    },
    /// A router on the way, or the server at its end.
    Hop {
        /// Its place on the way, from 1.
        hop: u8,
        /// Its address, if it answered and is not a secret of our own network.
        router: Option<IpAddr>,
        /// How long its answer took.
        time_us: Option<u64>,
    },
}

impl Tool {
    /// As commands and paths call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Smtp => "smtp",
            Self::Ping => "ping",
            Self::Traceroute => "traceroute",
        }
    }
}

impl Finding {
    /// A finding; of long words the beginning.
    pub fn new(what: What, grade: Option<Grade>, words: &str) -> Self {
        let plain = words.chars().take(WORDS_MAX).map(|c| if is_unprintable(c) { '?' } else { c });
        Self { grade, words: plain.collect(), what }
    }
}

impl Seen {
    /// A server that cannot be looked at.
    pub(super) fn nowhere(server: String, why: &str) -> Self {
        let finding = Finding::new(What::Step { step: Step::Resolve }, Some(Grade::Bad), why);
        Self { server, address: None, findings: vec![finding] }
    }

    /// The worst that was found.
    pub fn grade(&self) -> Grade {
        let grades = self.findings.iter().filter_map(|finding| finding.grade);
        grades.max().unwrap_or(Grade::Good)
    }
}

impl From<client::Finding> for Finding {
    fn from(found: client::Finding) -> Self {
        let what = What::Step { step: found.step };
        Self { grade: Some(found.grade), words: found.words, what }
    }
}

impl From<Spoken> for Finding {
    fn from(spoken: Spoken) -> Self {
        Self::new(What::Line { by: spoken.by }, spoken.grade, &spoken.line)
    }
}

/// A time as people read it.
pub(super) fn milliseconds(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}
