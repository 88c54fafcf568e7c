//! placeholder
use crate::state::State;
/// x
pub struct Cluster(pub State);
/// x
pub enum ProposeError {}
