//! The checks, each with the id by which people allow what it finds, and how bad that is. The ids
//! are stable; docs/lint.md explains each of them.

use std::fmt;

use serde::{Serialize, Serializer};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is worth knowing, and may well be meant.
    Note,
    /// It is probably not meant.
    Warning,
    /// It is certainly wrong.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

macro_rules! checks {
    ($($(#[doc = $doc:literal])+ $name:ident, $id:literal, $severity:ident;)+) => {
        /// A check.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Check {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Check {
            /// Every check, in the order in which docs/lint.md has them.
            pub const ALL: &'static [Check] = &[$(Check::$name,)+];

            /// The id in kebab-case, as `--allow` and the annotation write it.
            pub fn id(self) -> &'static str {
                match self {
                    $(Check::$name => $id,)+
                }
            }

            /// How bad its findings are at most.
            pub fn severity(self) -> Severity {
                match self {
                    $(Check::$name => Severity::$severity,)+
                }
            }

            /// What it finds, as a sentence.
            pub fn summary(self) -> &'static str {
                match self {
                    $(Check::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

checks! {
    /// An input cannot be read, or not all of it.
    UnreadableInput, "unreadable-input", Error;
    /// An object is one that no API server takes, and a part of it does not count.
    RefusedObject, "refused-object", Error;
    /// A field has a value that no API server takes.
    RefusedField, "refused-field", Error;
    /// The reader understands the input, but doubts that it is meant as written.
    Doubtful, "doubtful", Warning;
    /// A part of the checks was not made, because the input lacks what they ask about.
    NotChecked, "not-checked", Note;
    /// A policy is in a namespace that is not in the input.
    NoSuchNamespace, "no-such-namespace", Warning;
    /// A policy selects no pod.
    SelectsNoPod, "selects-no-pod", Warning;
    /// A peer of a rule means nobody.
    PeerMeansNobody, "peer-means-nobody", Warning;
    /// A rule names a port that no container of the pods concerned has.
    UnknownPortName, "unknown-port-name", Warning;
    /// Two peers stand beside each other where one with both selectors was probably meant.
    OrInsteadOfAnd, "or-instead-of-and", Warning;
    /// A rule changes nothing.
    RuleChangesNothing, "rule-changes-nothing", Warning;
    /// A policy changes nothing.
    PolicyChangesNothing, "policy-changes-nothing", Warning;
    /// ClusterNetworkPolicies of one priority disagree.
    TierConflict, "tier-conflict", Warning;
    /// Pods may send something, but cannot ask DNS.
    DnsDenied, "dns-denied", Warning;
    /// Pods may reach the cloud's metadata service.
    MetadataReachable, "metadata-reachable", Warning;
    /// A rule lets every address in.
    OpenToWorld, "open-to-world", Warning;
    /// Nothing isolates pods for ingress.
    NotIsolated, "not-isolated", Warning;
    /// A rule names a port of a Service, and its pods listen on another one.
    ServicePort, "service-port", Warning;
    /// Security groups exceed a quota of the cloud.
    GroupQuota, "group-quota", Warning;
}

impl Check {
    /// The check with this id.
    pub fn with_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|check| check.id() == id)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_joined_by_hyphens_and_lead_back_to_the_check() {
        for check in Check::ALL {
            let id = check.id();
            assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{id}");
            assert_eq!(Check::with_id(id), Some(*check));
            let summary = check.summary();
            assert!(summary.ends_with('.') && !summary.starts_with(' '), "{id}: {summary:?}");
        }
        assert_eq!(Check::with_id("no-such-check"), None);
    }
}
