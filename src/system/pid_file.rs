//! Which process has a data folder.

use std::io;
use std::path::Path;

/// Written into the data folder while a node runs.
const PID_FILE: &str = "mxfleet.pid";

/// Note that this process has the folder `dir`.
pub fn write(dir: &Path) -> io::Result<()> {
    std::fs::write(dir.join(PID_FILE), std::process::id().to_string())
}

/// The process has stopped in order.
pub fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(PID_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The process that has the folder `dir` and runs; one that was killed does not count.
pub fn running(dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(dir.join(PID_FILE)).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A zombie has died; it only waits for its parent to notice.
    let is_zombie = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'));
    (is_zombie == Some(false)).then_some(pid)
}
