//! The commands of a client, parsed strictly (RFC 5321 section 4.1, RFC 3030, 3461, 6531).
//!
//! A line comes without its CRLF. What is not a command is answered with the reply it deserves;
//! nothing here panics, whatever the octets.

use super::canned::{self, Canned};
use super::parameters::{MailParameters, RcptParameters};
use super::{Address, AddressError, ReversePath};

/// Longest name in EHLO: a domain or an address literal.
const HELO_OCTETS_MAX: usize = 255;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// HELO with the client's name.
    Helo(&'a str),
    /// EHLO with the client's name.
    Ehlo(&'a str),
    /// MAIL FROM.
    Mail(Mail),
    /// RCPT TO.
    Rcpt(Rcpt),
    /// DATA.
    Data,
    /// BDAT.
    Bdat(Chunk),
    /// BDAT whose size cannot be read, so that nobody knows where its chunk ends.
    BdatBroken,
    /// RSET.
    Rset,
    /// NOOP, with or without a parameter.
    Noop,
    /// HELP, with or without a parameter.
    Help,
    /// VRFY.
    Vrfy,
    /// STARTTLS.
    StartTls,
    /// QUIT.
    Quit,
    /// A verb that is SMTP, but not for us: EXPN, ETRN, TURN, AUTH, XCLIENT, XFORWARD.
    Unsupported,
    /// A request line of HTTP: a browser was made to talk to us.
    Foreign,
}

/// MAIL FROM with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The address; `None` is `<>`.
    pub from: ReversePath,
    /// SIZE, BODY, SMTPUTF8, RET, ENVID.
    pub parameters: MailParameters,
}

/// RCPT TO with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rcpt {
    /// The address; `None` is `<Postmaster>` without a domain (RFC 5321 section 4.5.1).
    pub to: Option<Address>,
    /// NOTIFY, ORCPT.
    pub parameters: RcptParameters,
}

/// One chunk of a message (RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Octets that follow the command.
    pub octets: u64,
    /// It ends the message.
    pub last: bool,
}

/// Parse one line. `utf8` says whether the transaction was opened with SMTPUTF8, so that a
/// recipient may have characters outside ASCII.
pub fn parse(line: &[u8], utf8: bool) -> Result<Command<'_>, Canned> {
    if line.iter().any(u8::is_ascii_control) {
        return Err(canned::CONTROL);
    }
    // RFC 5321 section 4.1.1: trailing white space is tolerated.
    let line = line.trim_ascii_end();
    let Ok(line) = str::from_utf8(line) else {
        let has_address = starts_with(line, b"MAIL ") || starts_with(line, b"RCPT ");
        return Err(if has_address { canned::NEEDS_UTF8 } else { canned::NOT_TEXT });
    };
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let bare = |command| if rest.is_empty() { Ok(command) } else { Err(canned::NO_PARAMETER) };
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    if is("RCPT") {
        rcpt(rest, utf8).map(Command::Rcpt)
    } else if is("MAIL") {
        mail(rest).map(Command::Mail)
    } else if is("EHLO") {
        helo_name(rest).map(Command::Ehlo)
    } else if is("DATA") {
        bare(Command::Data)
    } else if is("QUIT") {
        bare(Command::Quit)
    } else if is("BDAT") {
        Ok(bdat(rest).map_or(Command::BdatBroken, Command::Bdat))
    } else if is("RSET") {
        bare(Command::Rset)
    } else if is("STARTTLS") {
        bare(Command::StartTls)
    } else if is("HELO") {
        helo_name(rest).map(Command::Helo)
    } else if is("NOOP") {
        Ok(Command::Noop)
    } else if is("VRFY") {
        Ok(Command::Vrfy)
    } else if is("HELP") {
        Ok(Command::Help)
    } else {
        other(verb)
    }
}

/// Verbs we know of, but do not serve.
fn other<'a>(verb: &str) -> Result<Command<'a>, Canned> {
    const UNSUPPORTED: &[&str] =
        &["EXPN", "ETRN", "TURN", "ATRN", "AUTH", "XCLIENT", "XFORWARD", "SEND", "SOML", "SAML"];
    const FOREIGN: &[&str] =
        &["GET", "POST", "HEAD", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH", "TRACE", "PRI"];
    let is_in = |list: &[&str]| list.iter().any(|name| verb.eq_ignore_ascii_case(name));
    if is_in(UNSUPPORTED) {
        Ok(Command::Unsupported)
    } else if is_in(FOREIGN) {
        Ok(Command::Foreign)
    } else {
        Err(canned::UNKNOWN)
    }
}

/// A domain or an address literal, by its characters only: plenty of hosts have no proper name,
/// but whatever they call themselves has to be fit for a Received field.
fn helo_name(text: &str) -> Result<&str, Canned> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let literal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'%');
    let ok = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => !inside.is_empty() && inside.bytes().all(literal),
        None => !text.is_empty() && text.bytes().all(plain),
    };
    if ok && text.len() <= HELO_OCTETS_MAX { Ok(text) } else { Err(canned::HELO_NAME) }
}

fn mail(rest: &str) -> Result<Mail, Canned> {
    let (path, parameters) = path(rest, "FROM:").ok_or(canned::MAIL_SYNTAX)?;
    let parameters = MailParameters::parse(parameters)?;
    Ok(Mail { from: sender(path, parameters.smtputf8)?, parameters })
}

fn rcpt(rest: &str, utf8: bool) -> Result<Rcpt, Canned> {
    let (path, parameters) = path(rest, "TO:").ok_or(canned::RCPT_SYNTAX)?;
    let parameters = RcptParameters::parse(parameters, utf8)?;
    Ok(Rcpt { to: recipient(path, utf8)?, parameters })
}

/// What stands between the brackets of MAIL FROM; `None` is the null reverse-path.
pub fn sender(path: &str, utf8: bool) -> Result<ReversePath, Canned> {
    if path.is_empty() {
        return Ok(None);
    }
    Address::parse(path, utf8).map(Some).map_err(|error| match error {
        AddressError::NeedsUtf8 => canned::NEEDS_UTF8,
        _ => canned::BAD_SENDER,
    })
}

/// What stands between the brackets of RCPT TO; `None` is `postmaster` without a domain.
pub fn recipient(path: &str, utf8: bool) -> Result<Option<Address>, Canned> {
    if path.eq_ignore_ascii_case("postmaster") {
        return Ok(None);
    }
    if path.starts_with('@') && path.contains(':') {
        return Err(canned::SOURCE_ROUTE);
    }
    Address::parse(path, utf8).map(Some).map_err(|error| match error {
        AddressError::NeedsUtf8 => canned::NEEDS_UTF8,
        AddressError::Literal => canned::LITERAL,
        _ => canned::BAD_RECIPIENT,
    })
}

/// What is between the angle brackets, and the parameters behind them. One space after the colon
/// is tolerated, because many clients send one; nothing else is.
fn path<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let head = rest.get(..keyword.len()).filter(|head| head.eq_ignore_ascii_case(keyword))?;
    let rest = &rest[head.len()..];
    let rest = rest.strip_prefix(' ').unwrap_or(rest).strip_prefix('<')?;
    let end = closing_bracket(rest)?;
    let parameters = &rest[end + 1..];
    match parameters.strip_prefix(' ') {
        Some(parameters) => Some((&rest[..end], parameters)),
        None if parameters.is_empty() => Some((&rest[..end], "")),
        None => None,
    }
}

/// The first `>` outside a quoted string.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' => return !quoted,
            _ => {}
        }
        false
    })
}

fn bdat(rest: &str) -> Option<Chunk> {
    let (size, last) = match rest.split_once(' ') {
        Some((size, last)) if last.eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return None,
        None => (rest, false),
    };
    // `u64::from_str` takes a plus sign, RFC 3030 does not.
    let digits = size.bytes().all(|b| b.is_ascii_digit());
    let octets = size.parse().ok().filter(|_| digits)?;
    Some(Chunk { octets, last })
}

/// Whether a line that may be no command was meant as RCPT.
pub fn is_rcpt(line: &[u8]) -> bool {
    starts_with(line, b"RCPT")
}

fn starts_with(line: &[u8], verb: &[u8]) -> bool {
    line.get(..verb.len()).is_some_and(|head| head.eq_ignore_ascii_case(verb))
}

#[cfg(test)]
mod tests;
