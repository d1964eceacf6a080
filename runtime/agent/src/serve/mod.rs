//! What drives an agent, and shows what it does.
//!
//! Two loops do the first: [`file_loop`] follows [`files`] that [`file_watch`] watches, and
//! [`cluster_loop`] follows an API server. [`supervisor`] and [`retry`] are what both share;
//! [`Options`] are what an operator can choose. Around them are:
//!
//! - [`audit`]: when what the kernel holds is compared with what was written to it
//! - [`sandboxes`]: what CNI reports about pods; [`sandbox_store`] keeps it for the next agent
//! - [`record`]: the state file that `netpolc status` reads; [`state_dir`] says where it is
//! - [`policy_status`]: which policies the tables come from
//! - [`flows`]: the socket on which `netpolc flows` reads what was decided about packets, and a log
//! - [`metrics`]: what monitoring reads
//! - [`sole`]: the claim that keeps a second agent out of the network namespace
//!
//! Not here: what an agent does with a cluster ([`crate::Agent`]).

pub mod audit;
pub mod cluster_loop;
pub mod file_loop;
pub mod file_watch;
pub mod files;
pub mod flows;
pub mod metrics;
mod options;
pub mod policy_status;
pub mod record;
pub mod retry;
pub mod sandbox_store;
pub mod sandboxes;
pub mod sole;
pub mod state_dir;
pub mod supervisor;

pub use options::{Options, Pass, Passes};
