//! An adversary: real frames, sent between the namespaces of one node and from outside, of every
//! kind that got past an enforcer before and of many that might. What arrives is held against the
//! oracle.
//!
//! - [`Lab`]: a node with pods behind host routes and pods on a bridge, an uplink, an overlay
//!   device, conntrack on or off
//! - [`wire`]: packet sockets that send and receive many frames in one system call
//! - [`bytes`]: frames to be written, honest or not
//! - [`generate`]: what is sent
//! - [`parse`]: frames to be read, on the judge's side; shares nothing with any datapath
//! - [`judge`]: may what arrived have arrived, given who really sent it and what was sent before
//! - [`Campaign`]: rounds of random policies, the frames of a round, the report
//!
//! Not here: the enforcer. A campaign gets it as a function that makes a cluster's policies stand.
//!
//! Each frame carries a mark of eight bytes that no other frame has, so what arrives is known by
//! its sender and not by what it says of itself. Pods and the outside never answer by themselves
//! (their kernels drop everything after the packet sockets have seen it): replies are frames of the
//! campaign too, so that the judge knows all that was ever said.

pub mod bytes;
mod campaign;
pub mod generate;
pub mod judge;
mod lab;
pub mod parse;
pub mod wire;
mod world;

pub use campaign::{Campaign, Report};
pub use lab::{Lab, Tracking};
pub use world::{Actor, Mac, Place, Shape, World};
