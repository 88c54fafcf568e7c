//! Tests of the whole spool, on a file system that can fail in every way.

mod basics;
mod model;
mod support;
