//! Kubernetes objects to the policy model: from files, and from an API server (`watch`, a feature)
//! by the same conversion.
//!
//! NetworkPolicies are read strictly ([`load()`] names file, object and field of every mistake) and
//! a broken one never widens: it isolates what it can be seen to select and allows nothing by its
//! broken part. Pods, Namespaces and Nodes are read for what policy needs and may carry anything
//! else; other kinds are ignored. Not here: anything about tables.
//!
//! The way of an input: `load` (files and limits) -> `decode` (documents and objects) -> `typed`
//! (fast, JSON only) or `yaml`/`json` -> `tree` -> `object` -> `policy` (strict) or `lenient` ->
//! `place` (two of one name) -> `keep` (what an input does not show any more).

mod change;
mod decode;
mod fuzz;
mod intern;
mod json;
mod keep;
mod kind;
mod lenient;
mod load;
mod metadata;
mod object;
mod place;
mod policy;
mod problem;
mod repeated;
mod resource;
mod selector;
mod service;
mod source;
mod split;
mod state;
mod strict;
mod tree;
mod typed;
#[cfg(feature = "watch")]
pub mod watch;
mod yaml;

pub use change::Change;
pub use decode::MAX_YAML_DOCUMENT_BYTES;
pub use fuzz::fuzz_decode;
pub use keep::{Held, Kept, holds, keep};
pub use load::{Converted, Input, Loaded, MAX_FILE_BYTES, convert, is_manifest, load};
pub use object::Object;
pub use place::{ObjectId, ObjectKind, Place, Places};
pub use problem::{MAX_PROBLEMS, ObjectRef, Problem, Severity};
pub use resource::Resource;
pub use state::PolicyState;
