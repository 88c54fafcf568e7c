//! Child processes that never outlive their test.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use super::{SOON, eventually};

/// A running program with its words in a file; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Start `words[0]` with the rest as arguments; its output is appended to `log`.
    ///
    /// `setpriv` asks the kernel to kill it should the thread that started it die first, which is
    /// how a cancelled test leaves nothing behind.
    pub fn start(words: &[String], log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Send a signal by name.
    pub fn signal(&self, name: &str) {
        output("kill", &["-s", name, &self.id().to_string()]);
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Wait for its end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of a process", SOON, || !self.is_running());
        self.child.wait().unwrap()
    }

    /// What it printed so far.
    pub fn words(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its resident memory in octets.
    pub fn resident_octets(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// The most memory it ever had, in octets.
    pub fn peak_octets(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    /// Forget the peak, so that the next one is seen.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
    }

    /// User and system time so far, in clock ticks (100 a second on Linux).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let words = self.words();
            let lines: Vec<&str> = words.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {} ends with:\n{}", self.log.display(), tail.join("\n"));
        }
    }
}

/// Run a command that must succeed; its standard output.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let done = attempt(program, arguments);
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Run a command that may fail.
pub fn attempt(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: run `tests/run tools`"))
}

/// Run `words[0]` with `input` on its standard input; it may fail.
pub fn attempt_with(words: &[String], input: &str) -> Output {
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{words:?}: {error}: run `tests/run tools`"));
    // A program that does not want its input may have closed it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a command said on standard error.
pub fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// What stands before a program so that `strace` does this to some of its system calls, such as
/// `error=EIO:when=3` (counted in each thread). It adds no process between us and the program.
pub fn injected(calls: &str, fault: &str) -> Vec<String> {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
    let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    words.map(str::to_owned).to_vec()
}
