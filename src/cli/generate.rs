//! `mxfleet completions` and `mxfleet man`: what packages install beside the program.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use super::output::write_out;

/// Arguments of `mxfleet completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Arguments of `mxfleet man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The folder that gets a page for each command.
    dir: PathBuf,
}

/// Print a script that completes command lines.
pub(super) fn completions(mut command: Command, args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "mxfleet", &mut script);
    write_out(&String::from_utf8_lossy(&script))
}

/// Write manual pages.
pub(super) fn man(command: Command, args: &ManArgs) -> anyhow::Result<()> {
    let shown = args.dir.display();
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {shown}"))?;
    clap_mangen::generate_to(command, &args.dir)
        .with_context(|| format!("cannot write into {shown}"))
}
