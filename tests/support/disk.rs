//! Small file systems of the test's own: one that loses power, and ones that fill up.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::process::{attempt, output};
use super::scratch;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: String,
    mount_point: String,
    fillers: Vec<PathBuf>,
    folder: tempfile::TempDir,
}

impl Disk {
    /// An ext4 file system in a file, whose power can be cut.
    pub fn ext4(mebibytes: usize) -> Self {
        let disk = Self::unmounted();
        output("truncate", &["-s", &format!("{mebibytes}m"), &disk.image]);
        output("mkfs.ext4", &["-q", "-m", "0", &disk.image]);
        disk.mount();
        disk
    }

    /// An ext4 file system that has room for so many files only.
    pub fn ext4_for(files: usize, mebibytes: usize) -> Self {
        let disk = Self::unmounted();
        output("truncate", &["-s", &format!("{mebibytes}m"), &disk.image]);
        output("mkfs.ext4", &["-q", "-m", "0", "-N", &files.to_string(), &disk.image]);
        disk.mount();
        disk
    }

    /// A file system in memory with this much room.
    pub fn memory(mebibytes: usize) -> Self {
        let disk = Self::unmounted();
        let options = format!("size={mebibytes}m");
        output("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &disk.mount_point]);
        disk
    }

    fn unmounted() -> Self {
        let folder = scratch();
        let within = |name: &str| folder.path().join(name).display().to_string();
        let (image, mount_point) = (within("image"), within("mnt"));
        std::fs::create_dir(&mount_point).unwrap();
        Self { image, mount_point, fillers: Vec::new(), folder }
    }

    /// Where files go.
    pub fn path(&self) -> &Path {
        Path::new(&self.mount_point)
    }

    /// Cut the power: nothing that was not synced survives. Returns the instant before the cut;
    /// what was acknowledged after it does not count, as a sync that returns while the cut is
    /// under way may not have reached the disk.
    pub fn cut_power(&self) -> Instant {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: the journal is not flushed either.
        let snippet = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], 0), 0x8004587D, struct.pack('I', 2))";
        let before = Instant::now();
        output("/usr/bin/python3", &["-c", snippet, &self.mount_point]);
        before
    }

    /// Mount again after `cut_power`, as a boot does. Nobody may use the file system any more.
    pub fn power_on(&self) {
        output("umount", &[&self.mount_point]);
        self.mount();
    }

    /// Take all the room that is left.
    pub fn fill(&mut self) {
        // Page by page at the end, as the last octet counts.
        for block in ["1M", "4k"] {
            let file = self.path().join(format!("filler{}", self.fillers.len()));
            let to = format!("of={}", file.display());
            attempt("dd", &["if=/dev/zero", &to, &format!("bs={block}")]);
            self.fillers.push(file);
        }
    }

    /// Take all the files that are left, though there is room in each.
    pub fn fill_with_files(&mut self) {
        loop {
            let file = self.path().join(format!("filler{}", self.fillers.len()));
            if std::fs::write(&file, "").is_err() {
                return;
            }
            self.fillers.push(file);
        }
    }

    /// Give back what was taken.
    pub fn free(&mut self) {
        for file in self.fillers.drain(..) {
            let _ = std::fs::remove_file(file);
        }
    }

    fn mount(&self) {
        output("mount", &["-o", "loop", &self.image, &self.mount_point]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        attempt("umount", &["-l", &self.mount_point]);
    }
}
