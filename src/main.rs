//! The `mxfleet` program: parse the command line, do what it says, exit with a code.

/// Tables are changed by copying small pieces of them, some of them for each rejection: with the
/// system's allocator that takes half as long again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    mxfleet::cli::main()
}
