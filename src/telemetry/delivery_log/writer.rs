//! The thread that writes the delivery log's lines, and what happens when their reader is slow.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::telemetry::metrics::METRICS;

/// Senders and recipients are for the node's user and its group.
const MODE: u32 = 0o640;
/// After a line the thread waits so long for more, so that a busy node wakes it seldom.
const GATHER: Duration = Duration::from_millis(20);
/// Lines written between two flushes.
const BATCH_LINES_MAX: usize = 4096;

/// Where lines go.
pub type Target = Box<dyn Write + Send>;

/// Open the file of a log, to write at its end.
///
/// To open a FIFO for writing waits for its reader, who may never come; to open it for both does
/// not.
pub fn open(path: &Path) -> io::Result<Target> {
    let is_fifo = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let file = File::options().create(true).append(true).read(is_fifo).mode(MODE).open(path)?;
    Ok(Box::new(file))
}

/// Hands lines to the thread. The thread ends when this is dropped and all is written; nobody
/// waits for it, since its target may stall for ever.
#[derive(Debug)]
pub(super) struct Writer {
    items: SyncSender<Item>,
    shared: Arc<Shared>,
    /// So many lines about refusals may wait; the other places are for those of messages.
    refusals_max: u64,
}

#[derive(Debug)]
enum Item {
    Line(String),
    Refusal(String),
    /// There is another target.
    Wake,
}

#[derive(Default)]
struct Shared {
    /// Lines that were taken.
    sent: AtomicU64,
    /// Lines that were written, or failed.
    done: Mutex<u64>,
    done_changed: Condvar,
    /// Lines that were not taken since the thread last had caught up.
    lost: AtomicU64,
    /// Lines about refusals that wait.
    refusals: AtomicU64,
    next: Mutex<Option<Target>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Writer {
    /// Start the thread; at most `lines_max` lines wait for a slow target.
    pub(super) fn start(target: Target, lines_max: usize) -> io::Result<Self> {
        let (items, taken) = mpsc::sync_channel(lines_max.max(1));
        let shared = Arc::<Shared>::default();
        let refusals_max = (lines_max / 2).max(1) as u64;
        let writer = Self { items, shared: Arc::clone(&shared), refusals_max };
        thread::Builder::new()
            .name("delivery-log".to_owned())
            .spawn(move || write_lines(&taken, &shared, target))?;
        Ok(writer)
    }

    /// Have a line written; when too many wait, it is lost, counted, and said.
    pub(super) fn send(&self, line: String) {
        if self.items.try_send(Item::Line(line)).is_ok() {
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
        } else {
            self.lose();
        }
    }

    /// Have a line about a refusal written. Whoever is refused can make as many as they like, so
    /// half of the room is not for these; `line` is made only if there is some.
    pub(super) fn send_refusal(&self, line: impl FnOnce() -> String) {
        let refusals = &self.shared.refusals;
        if refusals.fetch_add(1, Ordering::Relaxed) < self.refusals_max
            && self.items.try_send(Item::Refusal(line())).is_ok()
        {
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
        } else {
            refusals.fetch_sub(1, Ordering::Relaxed);
            self.lose();
        }
    }

    fn lose(&self) {
        METRICS.delivery_log_dropped_total.inc();
        if self.shared.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!("the reader of the delivery log is too slow: lines are lost");
        }
    }

    /// Go on at another target, behind what is being written.
    pub(super) fn replace(&self, target: Target) {
        *lock(&self.shared.next) = Some(target);
        // When no more fits in, the thread has work already and will look.
        let _ = self.items.try_send(Item::Wake);
    }

    /// Wait until all lines sent so far are written, but not longer than `within`. How many are
    /// not.
    pub(super) fn flush(&self, within: Duration) -> u64 {
        let sent = self.shared.sent.load(Ordering::Relaxed);
        let done = lock(&self.shared.done);
        let waited = self.shared.done_changed.wait_timeout_while(done, within, |done| *done < sent);
        let (done, _) = waited.unwrap_or_else(PoisonError::into_inner);
        sent.saturating_sub(*done)
    }
}

/// Numbers and handles are whole at any moment, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_lines(items: &Receiver<Item>, shared: &Shared, target: Target) {
    let mut output = Output { target: BufWriter::new(target), failing: false };
    while let Ok(first) = items.recv() {
        thread::sleep(GATHER);
        let mut lines = 0;
        for item in std::iter::once(first).chain(items.try_iter()).take(BATCH_LINES_MAX) {
            match item {
                Item::Line(line) => {
                    output.write(line.as_bytes());
                    lines += 1;
                }
                Item::Refusal(line) => {
                    shared.refusals.fetch_sub(1, Ordering::Relaxed);
                    output.write(line.as_bytes());
                    lines += 1;
                }
                Item::Wake => output.follow(shared),
            }
        }
        output.flush();
        *lock(&shared.done) += lines;
        shared.done_changed.notify_all();
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!("the delivery log goes on; {lost} lines were lost");
        }
        // Its wake may have found no room.
        output.follow(shared);
    }
}

/// What is written to now. One that fails loses lines; it is said once, and once more when it
/// works again.
struct Output {
    target: BufWriter<Target>,
    failing: bool,
}

impl Output {
    fn write(&mut self, line: &[u8]) {
        let written = self.target.write_all(line);
        self.note(written);
    }

    fn flush(&mut self) {
        let flushed = self.target.flush();
        self.note(flushed);
    }

    /// Go on at the next target, if there is one.
    fn follow(&mut self, shared: &Shared) {
        if let Some(next) = lock(&shared.next).take() {
            self.flush();
            self.target = BufWriter::new(next);
        }
    }

    fn note(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => {
                if std::mem::replace(&mut self.failing, false) {
                    tracing::info!("the delivery log can be written again");
                }
            }
            Err(error) => {
                METRICS.delivery_log_dropped_total.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the delivery log cannot be written");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn text_of(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_replaced_target_takes_the_lines_that_come_after() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let writer = Writer::start(open(&path).unwrap(), 100).unwrap();
        writer.send("one\n".to_owned());
        assert_eq!(writer.flush(SOON), 0);
        std::fs::rename(&path, &moved).unwrap();
        writer.send("two\n".to_owned());
        assert_eq!(writer.flush(SOON), 0);
        writer.replace(open(&path).unwrap());
        writer.send("three\n".to_owned());
        assert_eq!(writer.flush(SOON), 0);
        assert_eq!((text_of(&moved).as_str(), text_of(&path).as_str()), ("one\ntwo\n", "three\n"));
    }

    /// Tells when it is written to, and hangs then until it may go on.
    struct Hangs(mpsc::Sender<()>, Receiver<()>);

    impl Write for Hangs {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_target_that_hangs_loses_lines_and_holds_up_nobody() {
        let (go, wait) = mpsc::channel();
        let writer = Writer::start(Box::new(Hangs(mpsc::channel().0, wait)), 10).unwrap();
        for _ in 0..1000 {
            writer.send("line\n".to_owned());
        }
        let (sent, lost) = (&writer.shared.sent, &writer.shared.lost);
        assert_eq!(sent.load(Ordering::Relaxed) + lost.load(Ordering::Relaxed), 1000);
        let left = writer.flush(Duration::from_millis(50));
        assert!(left > 0 && left == sent.load(Ordering::Relaxed), "{left} are left");
        // It works again: what was taken is written, and lines are taken.
        drop(go);
        assert_eq!(writer.flush(SOON), 0);
        writer.send("line\n".to_owned());
        assert_eq!(writer.flush(SOON), 0);
    }

    #[test]
    fn a_flood_of_refusals_leaves_room_for_the_lines_of_messages() {
        let ((tell, hangs), (go, wait)) = (mpsc::channel(), mpsc::channel());
        let writer = Writer::start(Box::new(Hangs(tell, wait)), 100).unwrap();
        writer.send("line\n".to_owned());
        hangs.recv_timeout(SOON).unwrap();
        for _ in 0..1000 {
            writer.send_refusal(|| "refused\n".to_owned());
        }
        assert_eq!(writer.shared.sent.load(Ordering::Relaxed), 1 + 50);
        assert_eq!(writer.shared.lost.load(Ordering::Relaxed), 950);
        for _ in 0..50 {
            writer.send("line\n".to_owned());
        }
        assert_eq!(writer.shared.lost.load(Ordering::Relaxed), 950);
        drop(go);
        assert_eq!(writer.flush(SOON), 0);
        assert_eq!(writer.shared.refusals.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_fifo_that_nobody_reads_is_opened_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let mut target = open(&path).unwrap();
        target.write_all(b"line\n").unwrap();
    }
}
