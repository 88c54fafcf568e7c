//! A real OpenSMTPD as a customer's server.
//!
//! Debian's package conflicts with Postfix, and the program has its paths built in, so it runs
//! from where `tests/run` unpacked it, in a mount namespace in which those paths are its own.

use std::net::SocketAddr;
use std::time::Duration;

use super::maildir::Maildir;
use super::process::{Process, attempt, output};
use super::{await_listening, free_address, scratch, unpacked};

/// A running OpenSMTPD; stopped when dropped.
#[derive(Debug)]
pub struct OpenSmtpd {
    address: SocketAddr,
    process: Process,
    folder: tempfile::TempDir,
}

impl OpenSmtpd {
    /// Take mail for these users of `domain`; others are unknown. An empty user is all of them.
    pub fn start(domain: &str, users: &[&str]) -> Self {
        let folder = scratch();
        let address = free_address();
        let path = folder.path();
        output("chmod", &["755", &path.display().to_string()]);
        for name in ["spool", "mail"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        output("chown", &["nobody", &path.join("mail").display().to_string()]);
        let users: Vec<String> = users
            .iter()
            .map(|user| format!("\"{}\" = \"nobody\"", if user.is_empty() { "@" } else { user }))
            .collect();
        let config = format!(
            "table users {{ {users} }}\n\
             listen on {ip} port {port} hostname mail.{domain}\n\
             smtp max-message-size 60M\n\
             smtp limit max-mails 1000000\n\
             action deliver maildir \"{mail}/box\" virtual <users>\n\
             match from any for domain \"{domain}\" action deliver\n",
            users = users.join(", "),
            ip = address.ip(),
            port = address.port(),
            mail = path.join("mail").display(),
        );
        std::fs::write(path.join("smtpd.conf"), config).unwrap();
        let script = format!(
            "set -e; root={root}\n\
             mount -t tmpfs none /usr/libexec; mkdir /usr/libexec/opensmtpd\n\
             mount --bind $root/usr/libexec/opensmtpd /usr/libexec/opensmtpd\n\
             mount --bind {folder}/spool /var/spool; mkdir -m 711 /var/spool/smtpd\n\
             mount -t tmpfs none /var/lib; mkdir -p /var/lib/opensmtpd/empty\n\
             mount -t tmpfs none /run\n\
             exec $root/usr/sbin/smtpd -d -f {folder}/smtpd.conf\n",
            root = unpacked("opensmtpd").display(),
            folder = path.display(),
        );
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script];
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let process = Process::start(&words, &path.join("log"));
        await_listening(address);
        Self { address, process, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it delivered.
    pub fn mailbox(&self) -> Maildir {
        Maildir::at(&self.folder.path().join("mail/box"))
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.words()
    }
}

impl Drop for OpenSmtpd {
    fn drop(&mut self) {
        // Its children end with it, when asked politely.
        attempt("kill", &[&self.process.id().to_string()]);
        for _ in 0..100 {
            if !self.process.is_running() {
                return;
            }
            // It has no other way to say that it is done.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
