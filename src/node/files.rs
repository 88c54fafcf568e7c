//! What is wrong with the files that a configuration names: told before they are needed.

use crate::config::Config;
use crate::connection::TlsIdentity;
use crate::rotation;

use super::reload::certificate_files;

/// Every certificate and the key for changes of DNS are read; what is wrong with them, in words.
pub fn problems(config: &Config) -> Vec<String> {
    let certificates = certificate_files(config).into_iter();
    let faults = certificates.filter_map(|pair| TlsIdentity::read(&[pair]).err());
    let mut problems: Vec<String> =
        faults.map(|fault| format!("smtp.certificates: {fault}")).collect();
    problems.extend(key_problem(config));
    problems
}

/// What is wrong with the key for changes of DNS: a node can run without, and cannot lead well.
pub(super) fn key_problem(config: &Config) -> Option<String> {
    let fault = rotation::check_tsig_key(config.tsig_key_file.as_deref()?).err()?;
    Some(format!("dns.tsig_key_file: {fault}"))
}
