//! The parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), and
//! RET, ENVID, NOTIFY, ORCPT (RFC 3461).
//!
//! xtext stays encoded, as it is passed on; but what it decodes to is checked, because it ends up
//! in the header of a report.

use super::canned::{self, Canned};
use super::{BodyType, Notify, Ret};

/// RFC 3461 section 4.4.
const ENVID_CHARACTERS_MAX: usize = 100;
/// RFC 3461 section 4.2.
const ORCPT_CHARACTERS_MAX: usize = 500;
/// RFC 1870 section 6.
const SIZE_DIGITS_MAX: usize = 20;

/// The parameters of MAIL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE=; `None` when it was not given. More than 64 bits hold is `u64::MAX`.
    pub size: Option<u64>,
    /// BODY=.
    pub body: Option<BodyType>,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// RET=.
    pub ret: Option<Ret>,
    /// ENVID=, still encoded.
    pub envid: Option<String>,
}

/// The parameters of RCPT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// NOTIFY=.
    pub notify: Option<Notify>,
    /// ORCPT=, still encoded.
    pub orcpt: Option<String>,
}

impl MailParameters {
    /// Parse what follows the path, split by single spaces.
    pub fn parse(text: &str) -> Result<Self, Canned> {
        let mut found = Self::default();
        for (name, value) in split(text) {
            if name.eq_ignore_ascii_case("SIZE") {
                put(&mut found.size, size(value).ok_or(canned::BAD_SIZE)?)?;
            } else if name.eq_ignore_ascii_case("BODY") {
                put(&mut found.body, body(value).ok_or(canned::BAD_BODY)?)?;
            } else if name.eq_ignore_ascii_case("SMTPUTF8") {
                match value {
                    Some(_) => return Err(canned::BAD_SMTPUTF8),
                    None if found.smtputf8 => return Err(canned::TWICE),
                    None => found.smtputf8 = true,
                }
            } else if name.eq_ignore_ascii_case("RET") {
                put(&mut found.ret, ret(value).ok_or(canned::BAD_RET)?)?;
            } else if name.eq_ignore_ascii_case("ENVID") {
                put(&mut found.envid, envid(value).ok_or(canned::BAD_ENVID)?)?;
            } else {
                return Err(canned::UNKNOWN_PARAMETER);
            }
        }
        Ok(found)
    }
}

impl RcptParameters {
    /// Parse what follows the path. `utf8`: the transaction was opened with SMTPUTF8.
    pub fn parse(text: &str, utf8: bool) -> Result<Self, Canned> {
        let mut found = Self::default();
        for (name, value) in split(text) {
            if name.eq_ignore_ascii_case("NOTIFY") {
                put(&mut found.notify, notify(value).ok_or(canned::BAD_NOTIFY)?)?;
            } else if name.eq_ignore_ascii_case("ORCPT") {
                put(&mut found.orcpt, orcpt(value, utf8).ok_or(canned::BAD_ORCPT)?)?;
            } else {
                return Err(canned::UNKNOWN_PARAMETER);
            }
        }
        Ok(found)
    }
}

/// `NAME=value` or `NAME`, separated by spaces.
fn split(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    })
}

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), Canned> {
    if place.replace(value).is_some() { Err(canned::TWICE) } else { Ok(()) }
}

fn size(value: Option<&str>) -> Option<u64> {
    let digits = value?;
    let ok =
        (1..=SIZE_DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    ok.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn body(value: Option<&str>) -> Option<BodyType> {
    let value = value?;
    if value.eq_ignore_ascii_case("7BIT") {
        Some(BodyType::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Some(BodyType::EightBitMime)
    } else {
        None
    }
}

fn ret(value: Option<&str>) -> Option<Ret> {
    let value = value?;
    if value.eq_ignore_ascii_case("FULL") {
        Some(Ret::Full)
    } else if value.eq_ignore_ascii_case("HDRS") {
        Some(Ret::Hdrs)
    } else {
        None
    }
}

fn notify(value: Option<&str>) -> Option<Notify> {
    let value = value?;
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for word in value.split(',') {
        if word.eq_ignore_ascii_case("SUCCESS") {
            notify.success = true;
        } else if word.eq_ignore_ascii_case("FAILURE") {
            notify.failure = true;
        } else if word.eq_ignore_ascii_case("DELAY") {
            notify.delay = true;
        } else {
            return None;
        }
    }
    Some(notify)
}

fn envid(value: Option<&str>) -> Option<String> {
    let value = value?;
    let ok = !value.is_empty() && value.len() <= ENVID_CHARACTERS_MAX && is_clean_xtext(value);
    ok.then(|| value.to_owned())
}

/// `type;xtext`. The type `utf-8` (RFC 6533) has its own escapes, and in an SMTPUTF8 transaction
/// it need not escape at all.
fn orcpt(value: Option<&str>, utf8: bool) -> Option<String> {
    let value = value?;
    let (kind, address) = value.split_once(';')?;
    let kind_ok = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let address_ok = if kind.eq_ignore_ascii_case("utf-8") {
        (utf8 || address.is_ascii()) && is_clean_utf8_address(address)
    } else {
        is_clean_xtext(address)
    };
    let ok = kind_ok && !address.is_empty() && address_ok;
    (ok && value.len() <= ORCPT_CHARACTERS_MAX).then(|| value.to_owned())
}

/// xtext of RFC 3461 section 4 that decodes to printable ASCII.
fn is_clean_xtext(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'+' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => high * 16 + low,
                _ => return false,
            },
            b'=' => return false,
            b'!'..=b'~' => byte,
            _ => return false,
        };
        if !(b' '..=b'~').contains(&decoded) {
            return false;
        }
    }
    true
}

/// utf-8-addr-xtext or utf-8-addr-unitext of RFC 6533 section 3, without control characters.
fn is_clean_utf8_address(text: &str) -> bool {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x{") {
        let Some((digits, behind)) = after.split_once('}') else { return false };
        let digits_ok = digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let character = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        if !digits_ok || !before.chars().all(is_unescaped) || character.is_none_or(char::is_control)
        {
            return false;
        }
        rest = behind;
    }
    rest.chars().all(is_unescaped)
}

fn is_unescaped(c: char) -> bool {
    matches!(c, '!'..='~' if !matches!(c, '+' | '=' | '\\'))
        || (!c.is_ascii() && !c.is_control() && !c.is_whitespace())
}

/// Upper case only (RFC 3461 section 4).
fn hex(byte: Option<u8>) -> Option<u8> {
    match byte? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        letter @ b'A'..=b'F' => Some(letter - b'A' + 10),
        _ => None,
    }
}
