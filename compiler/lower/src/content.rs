//! Content without identity: fingerprints, and lists without order.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// A fingerprint of some content, the same in every process of one build. Another build may differ:
/// then everything is written anew, which is slow and not wrong.
pub(crate) fn fingerprint(content: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Each once, in order.
pub(crate) fn distinct<T: Ord>(list: impl Iterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = list.collect();
    list.sort_unstable();
    list.dedup();
    list
}
