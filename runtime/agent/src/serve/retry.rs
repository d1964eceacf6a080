//! When a failed update, or a search for a missing interface, is tried again.
//!
//! Not here: whether anything has to be tried again (`supervisor`).

use std::time::Duration;

use tokio::time::Instant;

/// The pause before the first retry, and after anything that may make a retry succeed.
const SHORTEST: Duration = Duration::from_millis(50);
/// What the pause grows to, by doubling, while retries fail.
const LONGEST: Duration = Duration::from_secs(5);

/// The time of the next retry. What happens meanwhile may bring it forward but never postpones it.
#[derive(Debug)]
pub struct Retry {
    pause: Duration,
    at: Instant,
}

impl Default for Retry {
    fn default() -> Self {
        Self { pause: SHORTEST, at: Instant::now() + SHORTEST }
    }
}

impl Retry {
    /// Takes note of something that may make a retry succeed.
    pub fn hasten(&mut self) {
        self.pause = SHORTEST;
        self.at = self.at.min(Instant::now() + SHORTEST);
    }

    /// Takes note of a retry. The next one comes after twice the pause.
    pub fn made(&mut self) {
        self.pause = (self.pause * 2).min(LONGEST);
        self.at = Instant::now() + self.pause;
    }

    /// Waits for the time of the next retry.
    pub async fn due(&self) {
        tokio::time::sleep_until(self.at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_what_happens_only_brings_a_retry_forward() {
        let mut retry = Retry::default();
        let first = retry.at;
        retry.hasten();
        assert_eq!(retry.at, first, "never postponed");
        for pause in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            retry.made();
            assert_eq!(retry.pause, Duration::from_millis(pause));
        }
        let late = retry.at;
        retry.hasten();
        assert!(retry.at < late, "brought forward");
        retry.made();
        assert_eq!(retry.pause, SHORTEST * 2, "from the beginning");
    }
}
