//! The node's own log: one line an event on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged when `MXFLEET_LOG` does not say otherwise.
const DEFAULT_FILTER: &str = "warn,mxfleet=info,openraft=error";

/// Start logging. A second start in one process (a test) is without effect.
pub fn start(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("MXFLEET_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
