//! Security Groups for Pods: reads what says which groups a pod has (`pod`, `policy`), and what a
//! group permits: the output of `aws ec2` (`aws`, with single rules in `rule`) and objects of the
//! AWS Controllers for Kubernetes (`ack`).
//!
//! A group only permits, so what cannot be understood of it is left out. But a pod without groups
//! is not policed by them at all; so where it cannot be told which groups a pod has, it has one
//! that exists nowhere ([`unreadable`]), and is closed.

pub(crate) mod ack;
pub(crate) mod aws;
pub(crate) mod pod;
pub(crate) mod policy;
mod rule;

use netpolc_policy::{InterfaceId, SecurityGroupId};

/// Stands for ids that could not be read. No group and no interface has it.
const UNREADABLE: &str = "unreadable";

/// The group of those of whom it cannot be told which groups they have.
pub(crate) fn unreadable() -> SecurityGroupId {
    UNREADABLE.into()
}

/// The interface of pods of which it cannot be told which interfaces they have.
pub(crate) fn unreadable_interface() -> InterfaceId {
    UNREADABLE.into()
}
