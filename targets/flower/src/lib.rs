//! TC-flower as a target: table programs become filters that a NIC, or the kernel's software path,
//! runs.
//!
//! ```text
//! Program + Topology + Capabilities --lower--> Lowered (filters with origin and placement)
//!                                   --sync---> netlink messages (the difference to what is installed)
//! ```
//!
//! - [`filter`]: one filter as a value: where it sits, what it matches, what it does, which entry
//!   it comes from
//! - [`capability`]: what a NIC and its driver can do, as a value
//! - [`topology`]: which endpoint is behind which port
//! - [`lowered`]: what lowering gives: filters with their placement, and what stays in software and
//!   why
//! - [`lower`]: from a program to filters, one module for each [`Mode`](lowered::Mode)
//! - [`text`], [`json`], [`totals`], [`names`]: what was lowered, for people and programs
//! - [`sync`], [`flower`], [`netlink`], [`kernel`]: from filters to what the kernel has, and back
//! - [`detect`], [`quirks`]: what a NIC can do, found on the machine and known of its driver
//! - [`eval`]: the interpreter: what filters do with a packet, in software and in a NIC
//!
//! The rule of soundness: hardware drops only what the tables deny and forwards only what they
//! permit. Everything else reaches the eBPF programs on the same interface, which decide alone. Not
//! here: Kubernetes, the choice of targets (runtime).

pub mod capability;
pub mod detect;
pub mod eval;
pub mod filter;
pub mod flower;
pub mod json;
pub mod kernel;
pub mod lower;
pub mod lowered;
pub mod names;
pub mod netlink;
pub mod node_links;
pub mod quirks;
pub mod software;
pub mod sound;
pub mod sync;
pub mod text;
pub mod topology;
pub mod totals;

pub use flower::Flower;
pub use software::Software;
