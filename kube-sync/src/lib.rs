//! Reads Kubernetes objects into the policy model: from files, and with the feature `watch` from an
//! API server, by the same conversion.
//!
//! Policies of every kind are read strictly ([`load()`] names the file, object and field of every
//! mistake), and a broken one never widens access: a NetworkPolicy isolates every pod that it can
//! be seen to select, and its broken part allows nothing; a ClusterNetworkPolicy denies where it
//! cannot be understood. Pods, Namespaces, Nodes, Services, ServiceAccounts and what the cloud says
//! of security groups are read for what policy needs and may carry anything else; other kinds are
//! ignored. Not here: anything about tables.
//!
//! An input passes through these modules: `load` (files and limits) -> `decode` (documents and
//! objects) -> `typed` (fast, JSON only) or `yaml`/`json` -> `tree` -> `object` -> `single` ->
//! `policy`, `tier` (strict), `groups` or `lenient` -> `place` (two objects of one name) ->
//! `last_known` (objects that an input no longer shows).
//!
//! Whoever answers questions offline reads by [`survey()`], which also gathers workloads, what is
//! behind Services and the lines of fields (`gather`), and makes up pods where manifests have
//! workloads alone (`made_up`). Agents never do.

mod annotation;
mod change;
mod cidr;
mod decode;
mod fuzz;
mod gather;
mod groups;
mod intern;
mod json;
mod json_maps;
mod kind;
mod last_known;
mod lenient;
mod lines;
mod load;
mod made_up;
mod metadata;
mod missing;
mod object;
mod owner;
mod place;
mod plain;
mod policy;
mod problem;
mod range;
mod repeated;
mod resource;
mod selector;
mod service;
mod single;
mod slice;
mod source;
mod split;
mod state;
mod strict;
mod survey;
mod tier;
mod tier_ports;
mod tier_rule;
mod tree;
mod typed;
#[cfg(feature = "watch")]
pub mod watch;
mod workload;
mod yaml;

pub use change::Change;
pub use decode::MAX_YAML_DOCUMENT_BYTES;
pub use fuzz::fuzz_decode;
pub use gather::LintAllow;
pub use last_known::{Merged, Retained, contains_file, merge_last_known};
pub use lines::{Line, Lines};
pub use load::{Converted, Input, Loaded, MAX_FILE_BYTES, convert, is_manifest, load};
pub use made_up::{MadeUp, MadeUpPods};
pub use missing::{Missing, missing};
pub use object::{NAMESPACE_NAME_LABEL, Object};
pub use owner::cron_job;
pub use place::{ObjectId, ObjectKind, Place, Places};
pub use plain::{controls, plain, plain_json};
pub use policy::is_port_name;
pub use problem::{MAX_PROBLEMS, ObjectRef, Problem, Severity};
pub use resource::{Families, Resource};
pub use selector::{is_dns_subdomain, is_label_key, is_label_value};
pub use state::{PolicyKind, PolicyState};
pub use survey::{Absent, Survey, survey};
