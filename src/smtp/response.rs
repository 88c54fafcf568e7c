//! What became of one recipient at one server: where in the dialog the answer fell, and what it
//! was. Stage 7 makes it, stage 8 judges it.

use std::fmt;
use std::str::FromStr;

use super::{Enhanced, Reply};

/// The point of the dialog an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The TCP connection.
    Connect,
    /// The server's greeting.
    Banner,
    /// EHLO or HELO.
    Helo,
    /// STARTTLS and the handshake after it.
    StartTls,
    /// MAIL FROM.
    Mail,
    /// RCPT TO, the only stage at which a recipient is refused as unknown.
    Rcpt,
    /// DATA.
    Data,
    /// The end of the text.
    FinalDot,
}

/// The answer itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The server said something.
    Reply(Reply),
    /// No answer: the network, TLS, a timeout or something that is not SMTP; why, in words.
    Broken(String),
    /// We did not ask, because this message and this server do not go together: 5.x.x for good,
    /// 4.x.x for now.
    Unfit {
        /// Our own status code.
        enhanced: Enhanced,
        /// Why, in words.
        text: String,
    },
    /// Nothing was said about this recipient yet; another transaction may take it at once.
    NotTried,
}

/// One recipient's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Where it fell.
    pub stage: Stage,
    /// What it was.
    pub answer: Answer,
}

impl Response {
    /// A reply at a stage.
    pub fn reply(stage: Stage, reply: Reply) -> Self {
        Self { stage, answer: Answer::Reply(reply) }
    }

    /// A failure without a reply at a stage.
    pub fn broken(stage: Stage, why: impl Into<String>) -> Self {
        Self { stage, answer: Answer::Broken(why.into()) }
    }

    /// Our own refusal to ask.
    pub fn unfit(stage: Stage, enhanced: Enhanced, text: impl Into<String>) -> Self {
        Self { stage, answer: Answer::Unfit { enhanced, text: text.into() } }
    }
}

/// Names as they are written in logs and on the command line.
const NAMES: [(Stage, &str); 8] = [
    (Stage::Connect, "connect"),
    (Stage::Banner, "banner"),
    (Stage::Helo, "helo"),
    (Stage::StartTls, "starttls"),
    (Stage::Mail, "mail"),
    (Stage::Rcpt, "rcpt"),
    (Stage::Data, "data"),
    (Stage::FinalDot, "final-dot"),
];

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES.iter().find(|(stage, _)| stage == self).map_or("", |(_, name)| name))
    }
}

/// A text that names no stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stage is connect, banner, helo, starttls, mail, rcpt, data or final-dot")]
pub struct NoStage;

impl FromStr for Stage {
    type Err = NoStage;

    /// The names of `Display`, in any case, and the common other spellings of them.
    fn from_str(text: &str) -> Result<Self, NoStage> {
        let name = text.trim().to_ascii_lowercase();
        let name = match name.as_str() {
            "conn" => "connect",
            "ehlo" | "lhlo" => "helo",
            "mail from" => "mail",
            "rcpt to" => "rcpt",
            "dot" | "end of data" | "end-of-data" | "bdat" => "final-dot",
            other => other,
        };
        NAMES.iter().find(|(_, known)| *known == name).map(|(stage, _)| *stage).ok_or(NoStage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_read_back_from_its_name() {
        for (stage, _) in NAMES {
            assert_eq!(stage.to_string().parse(), Ok(stage));
        }
        assert_eq!("EHLO".parse(), Ok(Stage::Helo));
        assert_eq!("vrfy".parse::<Stage>(), Err(NoStage));
    }
}
