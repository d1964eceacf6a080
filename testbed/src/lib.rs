//! What tests, demonstrations and measurements stand on. No enforcement and no judge of its own.
//!
//! - [`cases`]: the shared corpus, a file each: objects, questions, verdicts
//! - [`netns`]: clusters of network namespaces, cleaned up whatever happens
//! - [`offenders`]: one tenant's worst
//! - [`probe`]: real packets between them
//! - [`adversary`]: frames of every hostile kind, and what of them may arrive
//! - [`random`]: seeded clusters, changes and questions for property tests
//! - [`big`]: a cluster of 100,000 pods, as a model and as files
//! - [`feed`]: programs that read their standard input
//! - `kube` (a feature): a real API server
//! - [`lab`]: tests inside a kernel with flower and a simulated NIC
//! - [`manifest`]: the model back to Kubernetes objects
//! - [`shop`]: the web shop of the demonstration
//! - [`story`]: the steps of a long test, named where it fails

pub mod adversary;
pub mod big;
pub mod cases;
pub mod feed;
#[cfg(feature = "kube")]
pub mod kube;
pub mod lab;
pub mod manifest;
pub mod netns;
pub mod offenders;
pub mod probe;
pub mod random;
pub mod shop;
pub mod story;
