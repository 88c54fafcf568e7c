//! A file system in memory that behaves as badly as real ones may, for tests of the spool.
//!
//! It forgets unsynced writes and names at a [`SimFs::crash`], in any combination and torn at any
//! octet; it fails any call; and after a failed sync it behaves as Linux does: a later sync says
//! `Ok`, and what the failed one should have kept is kept or not.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fs::{SpoolFile, SpoolFs};

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error number and has no effect; a sync that fails loses its data.
    Errno(i32),
    /// A write puts half of its octets and then fails with this error number; others just fail.
    Short(i32),
    /// The machine stops: this call and all later ones fail.
    Stop,
}

/// `EIO`.
pub const EIO: i32 = 5;
/// `ENOSPC`.
pub const ENOSPC: i32 = 28;

/// The file system. Clones are handles to the same one.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    files: BTreeMap<u64, File>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last sync of their directory, in order.
    renames: Vec<(PathBuf, Option<u64>)>,
    next_file: u64,
    calls: u64,
    syncs: u64,
    vain_syncs: u64,
    faults: BTreeMap<u64, Fault>,
    sync_error: Option<i32>,
    capacity: Option<u64>,
    stopped: bool,
    locked: bool,
}

#[derive(Default, Clone)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// From here on in `unsynced` a sync can still help.
    hopeless: usize,
    removed: bool,
    sync_failed: bool,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let end = offset + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Length(octets) => content.resize(*octets, 0),
        }
    }
}

impl SimFs {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine loses power: this file system stops, and the answer is what is on the disk
    /// afterwards. `seed` decides which unsynced changes are.
    pub fn crash(&self, seed: u64) -> Self {
        let mut disk = self.disk();
        disk.stopped = true;
        let mut random = Random(seed);
        let mut after = Disk { next_file: disk.next_file, ..Disk::default() };
        after.durable_names.clone_from(&disk.durable_names);
        // Names change in order, as a journal keeps them.
        let kept = random.below(disk.renames.len() + 1);
        for (path, file) in &disk.renames[..kept] {
            rename(&mut after.durable_names, path, *file);
        }
        after.names.clone_from(&after.durable_names);
        for file in after.names.values() {
            let Some(before) = disk.files.get(file) else { continue };
            let mut content = before.durable.clone();
            let mood = random.below(3);
            for change in &before.unsynced {
                match (mood, change) {
                    (0, _) => {}
                    (1, change) => change.apply(&mut content),
                    (_, Change::Write(offset, bytes)) if random.below(2) == 0 => {
                        let torn = bytes[..random.below(bytes.len() + 1)].to_vec();
                        Change::Write(*offset, torn).apply(&mut content);
                    }
                    (_, change) if random.below(2) == 0 => change.apply(&mut content),
                    _ => {}
                }
            }
            let durable = content.clone();
            after.files.insert(*file, File { now: content, durable, ..File::default() });
        }
        Self(Arc::new(Mutex::new(after)))
    }

    /// The process is killed: this handle stops, the kernel keeps everything, for now.
    pub fn kill(&self) -> Self {
        let mut disk = self.disk();
        disk.stopped = true;
        Self(Arc::new(Mutex::new(Disk {
            files: disk.files.clone(),
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            renames: disk.renames.clone(),
            next_file: disk.next_file,
            ..Disk::default()
        })))
    }

    /// Let the `nth` call from now on (1 is the next) have a fault.
    pub fn fail_nth(&self, nth: u64, fault: Fault) {
        let mut disk = self.disk();
        let call = disk.calls + nth;
        disk.faults.insert(call, fault);
    }

    /// Let no call fail that has not yet.
    pub fn clear_faults(&self) {
        self.disk().faults.clear();
    }

    /// Let every sync fail with this error, or none.
    pub fn fail_syncs(&self, errno: Option<i32>) {
        self.disk().sync_error = errno;
    }

    /// Let the disk have room for so many octets in all.
    pub fn set_capacity(&self, octets: Option<u64>) {
        self.disk().capacity = octets;
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Whether the machine has stopped.
    pub fn is_stopped(&self) -> bool {
        self.disk().stopped
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Syncs of files whose sync had failed before, which prove nothing.
    pub fn vain_syncs(&self) -> u64 {
        self.disk().vain_syncs
    }

    /// The names that there are.
    pub fn names(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }

    /// The content of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        Some(disk.files.get(disk.names.get(path)?)?.now.clone())
    }

    /// Change the content of a file behind everybody's back, durably.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let number = disk.names.get(path).copied();
        if let Some(file) = number.and_then(|number| disk.files.get_mut(&number)) {
            change(&mut file.now);
            file.durable = file.now.clone();
            file.unsynced.clear();
            file.hopeless = 0;
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count a call, and say what is wrong with it.
    fn call(&self) -> Result<MutexGuard<'_, Disk>, (MutexGuard<'_, Disk>, Fault)> {
        let mut disk = self.disk();
        disk.calls += 1;
        let call = disk.calls;
        match disk.faults.remove(&call) {
            _ if disk.stopped => Err((disk, Fault::Stop)),
            None => Ok(disk),
            Some(fault) => {
                disk.stopped = fault == Fault::Stop;
                Err((disk, fault))
            }
        }
    }

    fn plain_call(&self) -> io::Result<MutexGuard<'_, Disk>> {
        self.call().map_err(|(_, fault)| error(fault))
    }

    fn change_name(&self, path: &Path, file: Option<u64>, disk: &mut Disk) {
        rename(&mut disk.names, path, file);
        disk.renames.push((path.to_owned(), file));
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Errno(errno) | Fault::Short(errno) => io::Error::from_raw_os_error(errno),
        Fault::Stop => io::Error::other("the machine has stopped"),
    }
}

fn rename(names: &mut BTreeMap<PathBuf, u64>, path: &Path, file: Option<u64>) {
    match file {
        Some(file) => names.insert(path.to_owned(), file),
        None => names.remove(path),
    };
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk {
    fn used(&self) -> u64 {
        self.files.values().filter(|file| !file.removed).map(|file| file.now.len() as u64).sum()
    }

    fn change(&mut self, number: u64, change: Change) -> io::Result<()> {
        let capacity = self.capacity.unwrap_or(u64::MAX);
        let used = self.used();
        let file = self.files.get_mut(&number).ok_or_else(missing)?;
        let before = file.now.len();
        let after = match &change {
            Change::Write(offset, bytes) => before.max(offset + bytes.len()),
            Change::Length(octets) => *octets,
        };
        if after > before && used + (after - before) as u64 > capacity {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        change.apply(&mut file.now);
        file.unsynced.push(change);
        Ok(())
    }
}

impl SpoolFs for SimFs {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.plain_call().map(drop)
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut disk = self.plain_call()?;
        if std::mem::replace(&mut disk.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone())))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>> {
        let mut disk = self.plain_call()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.next_file += 1;
        let number = disk.next_file;
        disk.files.insert(number, File::default());
        self.change_name(path, Some(number), &mut disk);
        Ok(Arc::new(SimFile { fs: self.clone(), number }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>> {
        let disk = self.plain_call()?;
        let number = *disk.names.get(path).ok_or_else(missing)?;
        Ok(Arc::new(SimFile { fs: self.clone(), number }))
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn SpoolFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.plain_call()?;
        let number = *disk.names.get(from).ok_or_else(missing)?;
        self.change_name(to, Some(number), &mut disk);
        self.change_name(from, None, &mut disk);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.plain_call()?;
        let number = *disk.names.get(path).ok_or_else(missing)?;
        self.change_name(path, None, &mut disk);
        // Its room is free at once, though an open file can still be read.
        if let Some(file) = disk.files.get_mut(&number) {
            file.removed = true;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.plain_call()?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.plain_call()?;
        let (durable, later): (Vec<_>, Vec<_>) = std::mem::take(&mut disk.renames)
            .into_iter()
            .partition(|(path, _)| path.parent() == Some(dir));
        disk.renames = later;
        for (path, file) in durable {
            rename(&mut disk.durable_names, &path, file);
        }
        Ok(())
    }

    fn free_octets(&self, _: &Path) -> io::Result<u64> {
        let disk = self.plain_call()?;
        Ok(disk.capacity.unwrap_or(1 << 40).saturating_sub(disk.used()))
    }

    fn inodes(&self, _: &Path) -> io::Result<(u64, u64)> {
        Ok((0, 0))
    }
}

struct Lock(SimFs);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.disk().locked = false;
    }
}

struct SimFile {
    fs: SimFs,
    number: u64,
}

impl SpoolFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        match self.fs.call() {
            Ok(mut disk) => {
                let written = disk.change(self.number, Change::Write(offset, bytes.to_vec()));
                if written.is_err() {
                    // A full disk takes what fits.
                    let room = disk.capacity.unwrap_or(0).saturating_sub(disk.used());
                    let room = usize::try_from(room).unwrap_or(0).min(bytes.len());
                    drop(disk.change(self.number, Change::Write(offset, bytes[..room].to_vec())));
                }
                written
            }
            Err((mut disk, fault)) => {
                if matches!(fault, Fault::Short(_) | Fault::Stop) {
                    let half = bytes[..bytes.len() / 2].to_vec();
                    disk.change(self.number, Change::Write(offset, half))?;
                }
                Err(error(fault))
            }
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = self.fs.plain_call()?;
        let file = disk.files.get(&self.number).ok_or_else(missing)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| file.now.get(offset..));
        let rest = rest.unwrap_or_default();
        let octets = rest.len().min(buffer.len());
        buffer[..octets].copy_from_slice(&rest[..octets]);
        Ok(octets)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut disk, fault) = match self.fs.call() {
            Ok(disk) => {
                let fault = disk.sync_error.map(Fault::Errno);
                (disk, fault)
            }
            Err((disk, fault)) => (disk, Some(fault)),
        };
        disk.syncs += 1;
        let failed = disk.files.get(&self.number).is_some_and(|file| file.sync_failed);
        disk.vain_syncs += u64::from(failed);
        let file = disk.files.get_mut(&self.number).ok_or_else(missing)?;
        if let Some(fault) = fault {
            file.sync_failed = true;
            // The kernel takes the pages for clean from now on.
            file.hopeless = file.unsynced.len();
            return Err(error(fault));
        }
        let synced = file.unsynced.split_off(file.hopeless);
        synced.iter().for_each(|change| change.apply(&mut file.durable));
        Ok(())
    }

    fn truncate(&self, octets: u64) -> io::Result<()> {
        let octets = usize::try_from(octets).map_err(io::Error::other)?;
        self.fs.plain_call()?.change(self.number, Change::Length(octets))
    }

    fn preallocate(&self, octets: u64) -> io::Result<()> {
        let octets = usize::try_from(octets).map_err(io::Error::other)?;
        let mut disk = self.fs.plain_call()?;
        let length = disk.files.get(&self.number).map_or(0, |file| file.now.len());
        disk.change(self.number, Change::Length(octets.max(length)))
    }

    fn octets(&self) -> io::Result<u64> {
        let disk = self.fs.plain_call()?;
        disk.files.get(&self.number).map(|file| file.now.len() as u64).ok_or_else(missing)
    }
}

/// SplitMix64: small, seeded, good enough to choose what is lost.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.next_u64() % bound).unwrap_or(0)
    }
}
