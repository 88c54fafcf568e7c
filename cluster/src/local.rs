//! The state of a fleet of one, kept in one file that is replaced whole at each change.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};

use crate::state::{Outcome, Request, State};

/// A node's handle on the replicated state. Cloning gives another handle on the same state.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    view: ArcSwap<State>,
    applied: watch::Sender<u64>,
    path: PathBuf,
    writer: Mutex<()>,
}

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is there but is not a state.
    #[error("{path} is damaged: {source}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Why a proposal has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The change could not be made durable; nothing was changed.
    #[error("the change could not be written, nothing was changed: {0}")]
    Storage(#[from] std::io::Error),
}

impl Cluster {
    /// Open the state kept in the folder `dir`, which is made if it is not there.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("state.json");
        let io = |source| OpenError::Io { path: path.clone(), source };
        fs::create_dir_all(dir).map_err(io)?;
        let state = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| OpenError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(io(error)),
        };
        let (applied, _) = watch::channel(state.applied_index());
        let view = ArcSwap::from_pointee(state);
        let shared = Shared { view, applied, path, writer: Mutex::new(()) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The last applied state. Cheap; never waits.
    pub fn view(&self) -> Arc<State> {
        self.shared.view.load_full()
    }

    /// Sees the applied index each time it moves.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Propose a change; when this returns `Ok`, the outcome is durable.
    pub async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        let _one_at_a_time = self.shared.writer.lock().await;
        let mut state = State::clone(&self.view());
        let outcome = state.apply(state.applied_index() + 1, &request);
        if outcome.is_ok() {
            replace(&self.shared.path, &serde_json::to_vec(&state)?)?;
        }
        let index = state.applied_index();
        self.shared.view.store(Arc::new(state));
        self.shared.applied.send_replace(index);
        Ok(outcome)
    }
}

impl From<serde_json::Error> for ProposeError {
    fn from(error: serde_json::Error) -> Self {
        Self::Storage(error.into())
    }
}

/// Replace the file: write beside it, sync, rename, sync the folder.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
