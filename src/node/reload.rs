//! SIGHUP: the configuration is read again, all or nothing.

use std::path::{Path, PathBuf};

use crate::config::reload::changes;
use crate::config::{self, Config};
use crate::connection::{CertificateFiles, TlsIdentity};
use crate::system::clock::wall_ms;
use crate::telemetry::delivery_log::DeliveryLog;
use crate::telemetry::metrics::METRICS;

use super::open_log;

/// The configuration file and what it said when it was last taken.
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    /// The file that the configuration in force was read from.
    pub(super) fn new(path: &Path) -> std::io::Result<Self> {
        noted(true);
        Ok(Self { path: path.to_owned(), text: std::fs::read_to_string(path)? })
    }

    /// Read it again, check all of it, take what can be taken without a restart, and say what has
    /// changed. When anything is wrong, nothing changes.
    pub(super) fn reload(&mut self, tls: &TlsIdentity, log: &DeliveryLog) {
        let taken = self.take(tls, log);
        noted(taken.is_ok());
        if let Err(problems) = taken {
            for problem in problems {
                tracing::error!("{}: {problem}", self.path.display());
            }
            tracing::error!("the configuration was not taken; the old one stays in force");
        }
    }

    fn take(&mut self, tls: &TlsIdentity, log: &DeliveryLog) -> Result<(), Vec<String>> {
        let text = std::fs::read_to_string(&self.path).map_err(|error| vec![error.to_string()])?;
        let config = config::check(&text)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let certificates = TlsIdentity::read(&certificate_files(&config));
        let certificates = certificates.map_err(|error| vec![error.to_string()])?;
        let target = config.log.deliveries.as_deref().map(open_log).transpose();
        let target = target.map_err(|error| vec![format!("{error:#}")])?;
        tls.replace(certificates);
        tracing::info!("certificates read again");
        if let Some(target) = target {
            log.replace(target);
            tracing::info!("delivery log opened again");
        }
        let changes = changes(&self.text, &text);
        for change in &changes {
            let reopened = change.key == "log.deliveries" && change.new.is_some();
            let is_now = reopened || change.is_at_once();
            let when = if is_now { "now" } else { "at the next start" };
            tracing::info!("the configuration has changed, in force {when}: {change}");
        }
        if changes.is_empty() {
            tracing::info!("the configuration has not changed");
        }
        self.text = text;
        Ok(())
    }
}

/// The certificates that a configuration names.
pub(super) fn certificate_files(config: &Config) -> Vec<CertificateFiles> {
    let files = config.smtp.certificates.iter();
    files.map(|c| CertificateFiles { chain: c.cert.clone(), key: c.key.clone() }).collect()
}

fn noted(success: bool) {
    METRICS.config_reload_success.set(success.into());
    if success {
        let now = i64::try_from(wall_ms() / 1000).unwrap_or(i64::MAX);
        METRICS.config_reload_timestamp_seconds.set(now);
    }
}
