//! Replies whose words never change, written once as they go on the wire.
//!
//! The server's common answers are sent by copying; [`Reply`](super::Reply) is for text that is
//! made for the occasion.

use std::fmt;

/// One complete reply line, CRLF included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canned {
    line: &'static str,
}

impl Canned {
    /// `line` starts with three digits and ends in CRLF; checked when it is compiled.
    pub const fn new(line: &'static str) -> Self {
        let bytes = line.as_bytes();
        assert!(
            bytes.len() > 5 && bytes[bytes.len() - 2] == b'\r' && bytes[bytes.len() - 1] == b'\n'
        );
        assert!(
            bytes[0].is_ascii_digit() && bytes[1].is_ascii_digit() && bytes[2].is_ascii_digit()
        );
        Self { line }
    }

    /// The whole line, CRLF included.
    pub const fn line(self) -> &'static str {
        self.line
    }

    /// The reply code.
    pub const fn code(self) -> u16 {
        let bytes = self.line.as_bytes();
        digit(bytes[0]) * 100 + digit(bytes[1]) * 10 + digit(bytes[2])
    }
}

impl fmt::Display for Canned {
    /// Without its CRLF.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.line.trim_ascii_end())
    }
}

const fn digit(byte: u8) -> u16 {
    (byte - b'0') as u16
}

macro_rules! canned {
    ($($(#[$doc:meta])* $name:ident = $line:literal;)*) => {
        $($(#[$doc])* pub const $name: Canned = Canned::new(concat!($line, "\r\n"));)*
    };
}

// What went well.
canned! {
    /// MAIL was accepted.
    MAIL_OK = "250 2.1.0 Ok";
    /// RCPT was accepted.
    RCPT_OK = "250 2.1.5 Ok";
    /// NOOP, RSET.
    OK = "250 2.0.0 Ok";
    /// A chunk that is not the last.
    CHUNK_OK = "250 2.0.0 Ok, chunk received";
    /// Go on with the text.
    START_DATA = "354 End data with <CR><LF>.<CR><LF>";
    /// Go on with the handshake.
    START_TLS = "220 2.0.0 Ready to start TLS";
    /// QUIT.
    BYE = "221 2.0.0 Bye";
    /// HELP.
    HELP = "214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT STARTTLS VRFY; see RFC 5321";
    /// VRFY, whatever it asks for: nobody learns who is here.
    VRFY = "252 2.0.0 Send some mail, I will try my best";
}

// Commands that are no commands.
canned! {
    /// A verb nobody knows.
    UNKNOWN = "500 5.5.1 Unknown command";
    /// A verb that is known, and not served here.
    UNSUPPORTED = "502 5.5.1 Command not implemented";
    /// Longer than a command may be.
    TOO_LONG = "500 5.5.2 Line too long";
    /// A control character, a bare CR or NUL among them.
    CONTROL = "500 5.5.2 Control character in a command";
    /// A line that ends with LF alone. The session ends with it: what follows can not be trusted.
    BARE_LF = "500 5.5.2 A command ends with CRLF, not LF";
    /// Octets that are not UTF-8.
    NOT_TEXT = "500 5.5.2 A command is text";
    /// A parameter where none is allowed.
    NO_PARAMETER = "501 5.5.4 This command takes no parameter";
    /// EHLO or HELO without a usable name.
    HELO_NAME = "501 5.5.4 EHLO and HELO need a domain name or an address literal";
    /// MAIL that is not `MAIL FROM:<...>`.
    MAIL_SYNTAX = "501 5.5.4 Syntax: MAIL FROM:<address> [SP parameters]";
    /// RCPT that is not `RCPT TO:<...>`.
    RCPT_SYNTAX = "501 5.5.4 Syntax: RCPT TO:<address> [SP parameters]";
    /// BDAT that is not `BDAT size [LAST]`.
    BDAT_SYNTAX = "501 5.5.4 Syntax: BDAT size [LAST]; closing, the chunk has no known end";
}

// Addresses and parameters.
canned! {
    /// The reverse-path is no address.
    BAD_SENDER = "553 5.1.7 The sender is not a valid address";
    /// The forward-path is no address.
    BAD_RECIPIENT = "553 5.1.3 The recipient is not a valid address";
    /// `user@[192.0.2.1]`.
    LITERAL = "550 5.7.1 Address literals are not relayed";
    /// `@a,@b:user@c`.
    SOURCE_ROUTE = "550 5.7.1 Source routes are not relayed";
    /// Characters outside ASCII without SMTPUTF8 (RFC 6531 section 3.5).
    NEEDS_UTF8 = "553 5.6.7 The address needs SMTPUTF8";
    /// A parameter nobody announced.
    UNKNOWN_PARAMETER = "555 5.5.4 Unknown parameter";
    /// A parameter given twice.
    TWICE = "501 5.5.4 A parameter is given twice";
    /// SIZE= that is no number.
    BAD_SIZE = "501 5.5.4 SIZE is 1 to 20 digits";
    /// BODY= that is neither 7BIT nor 8BITMIME.
    BAD_BODY = "501 5.5.4 BODY is 7BIT or 8BITMIME";
    /// SMTPUTF8 with a value.
    BAD_SMTPUTF8 = "501 5.5.4 SMTPUTF8 has no value";
    /// RET= that is neither FULL nor HDRS.
    BAD_RET = "501 5.5.4 RET is FULL or HDRS";
    /// ENVID= that is no xtext.
    BAD_ENVID = "501 5.5.4 ENVID is at most 100 characters of xtext";
    /// NOTIFY= that RFC 3461 section 4.1 does not allow.
    BAD_NOTIFY = "501 5.5.4 NOTIFY is NEVER, or a list of SUCCESS, FAILURE, DELAY";
    /// ORCPT= that RFC 3461 section 4.2 does not allow.
    BAD_ORCPT = "501 5.5.4 ORCPT is a type, a semicolon and at most 500 characters of xtext";
}

// Out of order.
canned! {
    /// Anything that needs EHLO before.
    NEED_HELO = "503 5.5.1 EHLO first";
    /// MAIL inside a transaction.
    NESTED_MAIL = "503 5.5.1 MAIL was given already";
    /// RCPT outside a transaction.
    NEED_MAIL = "503 5.5.1 MAIL first";
    /// DATA or BDAT outside a transaction.
    NEED_RCPT = "503 5.5.1 MAIL and RCPT first";
    /// DATA or BDAT when every recipient was refused.
    NO_RECIPIENTS = "554 5.5.1 No valid recipients";
    /// MAIL, RCPT, DATA between two chunks.
    AFTER_BDAT = "503 5.5.1 Only BDAT or RSET after BDAT";
    /// STARTTLS inside TLS.
    TLS_ALREADY = "503 5.5.1 TLS is active already";
    /// Something was sent behind a command that must be the last of its group, or before our
    /// banner.
    TALKED_EARLY = "554 5.5.0 You talk before it is your turn";
    /// An HTTP request.
    FOREIGN = "554 5.5.0 This is not a web server";
}

// Bounds.
canned! {
    /// The message is, or will be, larger than we take.
    TOO_BIG = "552 5.3.4 Message exceeds the size limit";
    /// More recipients than one message may have (RFC 5321 section 4.5.3.1.10).
    TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients, send the rest in another transaction";
    /// The spool takes no mail now.
    SPOOL_FULL = "452 4.3.1 Insufficient system storage";
    /// The message could not be made durable.
    NOT_STORED = "451 4.3.0 The message could not be stored, try again later";
    /// The session used up its errors.
    TOO_MANY_ERRORS = "421 4.7.0 Too many errors";
    /// The session used up its commands.
    TOO_MANY_COMMANDS = "421 4.7.0 Too many commands in one session";
    /// The session used up its messages.
    TOO_MANY_MESSAGES = "421 4.7.0 Too many messages in one session";
    /// A command line that never ends, or more discarded data than we read.
    TOO_MUCH = "421 4.7.0 Too much data";
    /// No place for this client now.
    BUSY = "421 4.7.0 Too many sessions, try again later";
    /// A deadline passed.
    TIMED_OUT = "421 4.4.2 Timed out";
    /// We are going away.
    STOPPING = "421 4.3.2 Service is stopping, try again";
    /// We are gone for good (RFC 7504).
    RETIRED = "521 5.3.2 This host does not accept mail any more";
}

// What is wrong with a text.
canned! {
    /// CR or LF alone; only CRLF ends a line, whatever else looks like one.
    BARE_NEWLINE = "550 5.5.2 The message has a bare CR or LF";
    /// NUL.
    HAS_NUL = "550 5.6.0 The message has a NUL";
    /// More hops than a message that is not in a loop has (RFC 5321 section 6.3).
    TOO_MANY_HOPS = "554 5.4.6 Too many hops, this is a mail loop";
    /// It has been here too often.
    OWN_LOOP = "554 5.4.6 This message was here before, this is a mail loop";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canned_reply_knows_its_code() {
        assert_eq!(RCPT_OK.code(), 250);
        assert_eq!(START_DATA.line(), "354 End data with <CR><LF>.<CR><LF>\r\n");
    }
}
