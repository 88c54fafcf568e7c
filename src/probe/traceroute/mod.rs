//! The routers on the way to a server: datagrams that live for one hop, for two, and so on, and who
//! sends them back.

mod datagram;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::JoinSet;

use self::datagram::Answer;
use super::ping::port;
use super::report::{Finding, What, milliseconds};
use crate::client::Grade;

/// Hops that are looked at.
const HOPS_MAX: u8 = 30;
/// Hops that are looked at at the same time.
const WAVE: u8 = 6;
/// Datagrams for one hop; routers drop some, and answer few a second.
const TRIES: usize = 2;
/// For the answer to each: with all hops silent, nine seconds.
const WAIT: Duration = Duration::from_millis(900);

/// What is known of one hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop {
    number: u8,
    /// Who answered, what, and after how long.
    heard: Option<(IpAddr, Answer, Duration)>,
}

/// The way to a server, and whether its SMTP port is open at the end. Of routers that are not
/// `shown` only that they answer is told.
pub(super) async fn trace(address: SocketAddr, shown: impl Fn(IpAddr) -> bool) -> Vec<Finding> {
    let (hops, port) = tokio::join!(hops(address.ip().to_canonical()), port(address));
    let mut findings = match hops {
        Ok(hops) => tell(&hops, shown),
        Err(error) => {
            let what = What::Hop { hop: 1, router: None, time_us: None };
            let words = format!("no datagram can be sent: {error}");
            vec![Finding::new(what, Some(Grade::Fair), &words)]
        }
    };
    findings.push(port);
    findings
}

async fn hops(to: IpAddr) -> io::Result<Vec<Hop>> {
    let mut hops = Vec::new();
    for first in (1..=HOPS_MAX).step_by(usize::from(WAVE)) {
        let mut wave = JoinSet::new();
        for number in first..first + WAVE {
            wave.spawn(async move { (number, hop(to, number).await) });
        }
        let mut found = wave.join_all().await;
        found.sort_by_key(|(number, _)| *number);
        for (number, hop) in found {
            let hop = match hop {
                Ok(hop) => hop,
                Err(error) if hops.is_empty() => return Err(error),
                // What was seen is told, and that it does not go on.
                Err(_) => Hop { number, heard: None },
            };
            hops.push(hop);
            if hop.heard.is_some_and(|(_, answer, _)| answer != Answer::Passed) {
                return Ok(hops);
            }
        }
    }
    Ok(hops)
}

async fn hop(to: IpAddr, number: u8) -> io::Result<Hop> {
    for _ in 0..TRIES {
        if let Some(heard) = datagram::send(to, number, WAIT).await? {
            return Ok(Hop { number, heard: Some(heard) });
        }
    }
    Ok(Hop { number, heard: None })
}

/// Silent hops at the end are told once.
fn tell(hops: &[Hop], shown: impl Fn(IpAddr) -> bool) -> Vec<Finding> {
    let heard = hops.iter().rposition(|hop| hop.heard.is_some()).map_or(0, |last| last + 1);
    let mut findings: Vec<Finding> = hops[..heard].iter().map(|hop| row(hop, &shown)).collect();
    if let Some(silent) = hops.get(heard) {
        let what = What::Hop { hop: silent.number, router: None, time_us: None };
        let words = "no answer from here on; many networks answer no such datagrams";
        findings.push(Finding::new(what, None, words));
    }
    findings
}

fn row(hop: &Hop, shown: &impl Fn(IpAddr) -> bool) -> Finding {
    let nothing = What::Hop { hop: hop.number, router: None, time_us: None };
    let Some((from, answer, after)) = hop.heard else {
        return Finding::new(nothing, None, "no answer");
    };
    let time_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
    let router = shown(from).then_some(from);
    let what = What::Hop { hop: hop.number, router, time_us: Some(time_us) };
    let who = match router {
        Some(from) => from.to_string(),
        None => "an address that is not public".to_owned(),
    };
    let took = milliseconds(time_us);
    match answer {
        Answer::Passed => Finding::new(what, None, &format!("{who}, {took}")),
        Answer::Reached => {
            Finding::new(what, Some(Grade::Good), &format!("{who}, {took}: the server"))
        }
        Answer::Refused(why) => {
            Finding::new(what, Some(Grade::Fair), &format!("{who}, {took}, says: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u8, heard: Option<(&str, Answer)>) -> Hop {
        let after = Duration::from_micros(1230);
        Hop { number, heard: heard.map(|(ip, answer)| (ip.parse().unwrap(), answer, after)) }
    }

    fn words(hops: &[Hop]) -> Vec<String> {
        let shown = |ip: IpAddr| !ip.to_string().starts_with("10.");
        tell(hops, shown).into_iter().map(|finding| finding.words).collect()
    }

    #[test]
    fn a_way_is_told_with_its_gaps_and_its_end() {
        let way = [
            at(1, Some(("10.0.0.1", Answer::Passed))),
            at(2, None),
            at(3, Some(("192.0.2.7", Answer::Passed))),
            at(4, Some(("192.0.2.9", Answer::Reached))),
        ];
        let told = [
            "an address that is not public, 1.23 ms",
            "no answer",
            "192.0.2.7, 1.23 ms",
            "192.0.2.9, 1.23 ms: the server",
        ];
        assert_eq!(words(&way), told);
        let silent = "no answer from here on; many networks answer no such datagrams";
        let ends = [at(1, Some(("192.0.2.7", Answer::Passed))), at(2, None), at(3, None)];
        assert_eq!(words(&ends), ["192.0.2.7, 1.23 ms", silent]);
        assert_eq!(words(&[at(1, None), at(2, None)]), [silent]);
        let refused = [at(1, Some(("192.0.2.7", Answer::Refused("no route to the host"))))];
        assert_eq!(words(&refused), ["192.0.2.7, 1.23 ms, says: no route to the host"]);
    }
}
