//! The little that the spool asks of a file system, so that a test can take it away.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// An open file.
pub trait SpoolFile: Send + Sync {
    /// Write all of `bytes` at `offset`. After an error any part of them may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Read at `offset`, as much as there is, up to the length of `buffer`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Return once everything written, and the length, is on stable storage. After an error
    /// nothing is known, and asking again proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// Set the length.
    fn truncate(&self, octets: u64) -> io::Result<()>;
    /// Reserve space up to `octets`, which then reads as zeros and counts as length.
    fn preallocate(&self, octets: u64) -> io::Result<()>;
    /// The length.
    fn octets(&self) -> io::Result<u64>;
}

/// A file system.
pub trait SpoolFs: Send + Sync {
    /// Make a directory, and those above it, unless it is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Take the lock that a file stands for, until the answer is dropped. `WouldBlock` when another
    /// process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
    /// Make a new file, to read and write; an error if it is there.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>>;
    /// Open a file to read.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>>;
    /// Open a file to read and write.
    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>>;
    /// Rename a file, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Remove a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Return once the names in a directory are on stable storage.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Octets we may still write.
    fn free_octets(&self, dir: &Path) -> io::Result<u64>;

    /// Free inodes of the disk that holds `dir`, and all of them; both 0 where there is no limit.
    fn inodes(&self, dir: &Path) -> io::Result<(u64, u64)>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFs;

impl SpoolFs for OsFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = new_file().create(true).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>> {
        Ok(Arc::new(new_file().create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>> {
        Ok(Arc::new(new_file().open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is not one of ours.
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.map(|entry| entry.file_name().into_string().ok()).transpose()
        };
        std::fs::read_dir(dir)?.filter_map(name).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_octets(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn inodes(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok((stat.f_favail, stat.f_files))
    }
}

/// Mail is private: only we may read it.
fn new_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl SpoolFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(
                self,
                &mut buffer[filled..],
                offset + filled as u64,
            ) {
                Ok(0) => break,
                Ok(octets) => filled += octets,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn truncate(&self, octets: u64) -> io::Result<()> {
        self.set_len(octets)
    }

    fn preallocate(&self, octets: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self, FallocateFlags::empty(), 0, octets)?)
    }

    fn octets(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_is_written_and_reads_zeros_where_space_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsFs.create(&dir.path().join("a")).unwrap();
        file.preallocate(100).unwrap();
        file.write_at(10, b"hello").unwrap();
        let mut buffer = [1; 20];
        assert_eq!(file.read_at(8, &mut buffer).unwrap(), 20);
        assert_eq!(&buffer[..8], b"\0\0hello\0");
        file.truncate(12).unwrap();
        assert_eq!(file.octets().unwrap(), 12);
        assert_eq!(file.read_at(8, &mut buffer).unwrap(), 4);
        assert!(OsFs.create(&dir.path().join("a")).is_err());
        assert!(OsFs.free_octets(dir.path()).unwrap() > 0);
        let (free, all) = OsFs.inodes(dir.path()).unwrap();
        assert!(free <= all);
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = OsFs.lock(&path).unwrap();
        let refused = OsFs.lock(&path).err().map(|error| error.kind());
        assert_eq!(refused, Some(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(OsFs.lock(&path).is_ok());
    }
}
