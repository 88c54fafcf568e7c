//! Who asks over the admin socket, for the audit trail.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

const USERS: &str = "/etc/passwd";

/// The user on the other side of the socket, as the system knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|peer| peer.uid()))
    }
}

impl Caller {
    /// `root at mx1`, or `alice as root at mx1` when the command was told another name.
    pub(super) fn at(self, node: &str, told: &str) -> String {
        let users = std::fs::read_to_string(USERS).unwrap_or_default(); // then the number has to do
        let user = self.0.map_or_else(|| "somebody".to_owned(), |uid| name_of(uid, &users));
        match told {
            "" => format!("{user} at {node}"),
            told if told == user => format!("{user} at {node}"),
            told => format!("{told} as {user} at {node}"),
        }
    }
}

fn name_of(uid: u32, users: &str) -> String {
    let number = uid.to_string();
    let is_it = |line: &&str| line.split(':').nth(2) == Some(number.as_str());
    let name = users.lines().find(is_it).and_then(|line| line.split(':').next());
    name.map_or_else(|| format!("user {uid}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_named_as_the_system_and_the_asker_name_it() {
        let users = "root:x:0:0:root:/root:/bin/sh\nmxfleet:x:990:990::/var/lib/mxfleet:\n";
        assert_eq!(name_of(990, users), "mxfleet");
        assert_eq!(name_of(99, users), "user 99");
        assert_eq!(Caller(Some(0)).at("mx1", ""), "root at mx1");
        assert_eq!(Caller(Some(0)).at("mx1", "root"), "root at mx1");
        assert_eq!(Caller(Some(0)).at("mx1", "alice"), "alice as root at mx1");
        assert_eq!(Caller(None).at("mx1", ""), "somebody at mx1");
    }
}
