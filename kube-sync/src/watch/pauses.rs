//! How long to wait after what failed. Not here: what to do then.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The first pause.
const FIRST: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// The first pause that good news may end, and the longest: news of a server that answers others
/// must not make a feed that it refuses ask for ever.
const NEWS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Pauses that grow.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
    /// Pauses that news ended.
    woken: u32,
}

impl Pauses {
    /// The next pause, and how much of it must pass whatever is heard meanwhile.
    pub fn next(&mut self) -> (Duration, Duration) {
        let grown = |first: Duration, times: u32, most: Duration| first.saturating_mul(1 << times.min(16)).min(most);
        let pause = grown(FIRST, self.failures, LONGEST);
        let least = grown(NEWS.0, self.woken, NEWS.1);
        self.failures += 1;
        let pause = pause / 2 + jitter(pause);
        (pause, (least / 2 + jitter(least)).min(pause))
    }

    /// News ended the last one.
    pub fn woken(&mut self) {
        self.woken += 1;
    }

    /// It works.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// A random part of `most`.
pub(crate) fn jitter(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}
