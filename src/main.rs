//! The `mxfleet` program: parse the command line, do what it says, exit with a code.

fn main() -> std::process::ExitCode {
    mxfleet::cli::main()
}
