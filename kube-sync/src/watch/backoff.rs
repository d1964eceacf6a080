//! Computes how long to wait after a failure. Not here: what is done afterwards.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The pause after the first failure.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
/// The longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The part of a pause that cannot be cut short, after the first failure and at most. It grows too:
/// a server that answers other feeds must not make a feed that it rejects retry without end.
const MIN_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Exponential backoff with jitter.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    /// How many pauses have been cut short.
    woken: u32,
}

impl Backoff {
    /// The next pause, and the part of it that cannot be cut short.
    pub fn next(&mut self) -> (Duration, Duration) {
        let grown = |first: Duration, times: u32, most: Duration| {
            first.saturating_mul(1 << times.min(16)).min(most)
        };
        let pause = grown(INITIAL_BACKOFF, self.failures, MAX_BACKOFF);
        let least = grown(MIN_PAUSE.0, self.woken, MIN_PAUSE.1);
        self.failures += 1;
        let pause = pause / 2 + jitter(pause);
        (pause, (least / 2 + jitter(least)).min(pause))
    }

    /// Records that the last pause was cut short.
    pub fn woken(&mut self) {
        self.woken += 1;
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// A random duration between zero and `most`.
pub(crate) fn jitter(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}
