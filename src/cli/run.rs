//! `mxfleet run`, `mxfleet check-config` and `mxfleet dev`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{EXIT_CONFIG, EXIT_FAILED};
use crate::config::{self, Config};
use crate::system::supervisor::Inherited;
use crate::telemetry::tracing as log;
use crate::{dev, node};

/// Arguments of `mxfleet run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Arguments of `mxfleet check-config`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file.
    file: PathBuf,
}

/// Arguments of `mxfleet dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Where the fleet keeps its state.
    #[arg(long, default_value = "mxfleet-dev")]
    dir: PathBuf,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
}

pub(super) fn run(args: &RunArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    log::start(config.log.format);
    // Before there are other threads, as it changes the environment.
    match Inherited::take() {
        Ok(inherited) => in_runtime(node::run(config, &args.config, inherited)),
        Err(error) => {
            eprintln!("mxfleet: the sockets that were passed cannot be used: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

pub(super) fn check_config(args: &CheckArgs) -> ExitCode {
    match load(&args.file) {
        Ok(config) => {
            let problems = node::files::problems(&config);
            if problems.is_empty() {
                eprintln!("{}: no problem found", args.file.display());
                return ExitCode::SUCCESS;
            }
            tell(&args.file, &problems);
            ExitCode::from(EXIT_CONFIG)
        }
        Err(code) => code,
    }
}

pub(super) fn dev(args: &DevArgs) -> ExitCode {
    in_runtime(dev::run(&args.dir, args.nodes))
}

/// Read and check the file; every problem goes to standard error.
pub(super) fn load(path: &Path) -> Result<Config, ExitCode> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        eprintln!("mxfleet: cannot read {}: {error}", path.display());
        ExitCode::from(EXIT_CONFIG)
    })?;
    config::check(&text).map_err(|problems| {
        tell(path, &problems);
        ExitCode::from(EXIT_CONFIG)
    })
}

fn tell(path: &Path, problems: &[impl std::fmt::Display]) {
    for problem in problems {
        eprintln!("{}: {problem}", path.display());
    }
    eprintln!("mxfleet: {} problem(s); nothing was started", problems.len());
}

pub(super) fn in_runtime(main: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(main));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mxfleet: {}", super::output::reasons(&error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}
