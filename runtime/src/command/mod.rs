//! The commands, one module each; each takes its resolved arguments and says how it ended.

pub mod eval;
