//! A real Postfix as a customer's server: its own folders, a loopback port, mail in maildirs.

use std::net::SocketAddr;
use std::path::Path;

use super::maildir::Maildir;
use super::process::{attempt, output};
use super::{await_listening, free_address, scratch};

/// A running Postfix; stopped when dropped.
#[derive(Debug)]
pub struct Postfix {
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Postfix {
    /// Take mail for these users of `domain`; others are unknown. An empty user is all of them.
    pub fn start(domain: &str, users: &[&str]) -> Self {
        Self::with(domain, users, "")
    }

    /// The same, but others are only found to be unknown after their mail was taken, and what
    /// there is to report is sent to this server.
    pub fn that_takes_all(domain: &str, users: &[&str], reports_to: SocketAddr) -> Self {
        let (ip, port) = (reports_to.ip(), reports_to.port());
        let more = format!(
            "smtpd_reject_unlisted_recipient = no\nsmtpd_delay_open_until_valid_rcpt = no\n\
             relayhost = [{ip}]:{port}\nsmtp_host_lookup = native\n\
             minimal_backoff_time = 1s\nmaximal_backoff_time = 2s\nqueue_run_delay = 1s\n"
        );
        Self::with(domain, users, &more)
    }

    fn with(domain: &str, users: &[&str], more: &str) -> Self {
        let folder = scratch();
        let address = free_address();
        let path = folder.path();
        // The mail system runs under accounts of its own and must pass through.
        output("chmod", &["755", &path.display().to_string()]);
        for name in ["etc", "queue", "data", "mail"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        output("chown", &["postfix", &path.join("data").display().to_string()]);
        output("chown", &["nobody", &path.join("mail").display().to_string()]);
        let table: String = users.iter().map(|user| format!("{user}@{domain} box/\n")).collect();
        std::fs::write(path.join("etc/users"), table).unwrap();
        std::fs::write(path.join("etc/main.cf"), main_cf(path, domain) + more).unwrap();
        std::fs::write(path.join("etc/master.cf"), master_cf(address)).unwrap();
        let server = Self { address, folder };
        output("postfix", &["-c", &server.etc(), "start"]);
        await_listening(address);
        server
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
        std::fs::read_to_string(self.folder.path().join("mail.log")).unwrap_or_default()
    }

    fn etc(&self) -> String {
        self.folder.path().join("etc").display().to_string()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        attempt("postfix", &["-c", &self.etc(), "abort"]);
    }
}

fn main_cf(folder: &Path, domain: &str) -> String {
    let id = |flag| output("id", &[flag, "nobody"]).trim().to_owned();
    format!(
        "compatibility_level = 3.6\n\
         queue_directory = {folder}/queue\n\
         data_directory = {folder}/data\n\
         maillog_file = {folder}/mail.log\n\
         maillog_file_prefixes = /\n\
         command_directory = /usr/sbin\n\
         daemon_directory = /usr/lib/postfix/sbin\n\
         myhostname = mail.{domain}\n\
         mydestination =\n\
         mynetworks = 192.0.2.0/24\n\
         local_header_rewrite_clients =\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         smtputf8_enable = yes\n\
         smtpd_peername_lookup = no\n\
         smtpd_client_connection_count_limit = 0\n\
         virtual_mailbox_domains = {domain}\n\
         virtual_mailbox_maps = texthash:{folder}/etc/users\n\
         virtual_mailbox_base = {folder}/mail\n\
         virtual_mailbox_limit = 0\n\
         virtual_uid_maps = static:{uid}\n\
         virtual_gid_maps = static:{gid}\n\
         message_size_limit = 60000000\n",
        folder = folder.display(),
        uid = id("-u"),
        gid = id("-g"),
    )
}

fn master_cf(address: SocketAddr) -> String {
    format!(
        "{address} inet n - n - - smtpd\n\
         pickup unix n - n 60 1 pickup\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         verify unix - - n - 1 verify\n\
         proxymap unix - - n - - proxymap\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         discard unix - - n - - discard\n\
         smtp unix - - n - - smtp\n\
         virtual unix - n n - - virtual\n\
         anvil unix - - n - 1 anvil\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    )
}
