//! Tests of the whole spool, on a file system that can fail in every way.

mod basics;
mod compaction;
mod damage;
mod faults;
mod golden;
mod hand_over;
mod model;
mod support;
