//! The steps of a long test. When it fails, the output names the step that was running.
//!
//! Not here: what a step does.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// A test that tells a story of several steps.
///
/// A panic unwinds through the story, which then prints the name of the running step behind the
/// panic's message. A step that ends well prints how long it took, for those who run the test with
/// `--nocapture`.
///
/// ```
/// use netpolc_testbed::story::Story;
///
/// let story = Story::begin();
/// story.step("make a cluster");
/// let cluster = [1, 2, 3];
/// story.step("count its nodes");
/// assert_eq!(cluster.len(), 3);
/// ```
#[derive(Debug)]
pub struct Story {
    /// The running step and when it began; None before the first one.
    running: Mutex<Option<(String, Instant)>>,
}

impl Story {
    /// A story without a step yet. Keep it in a variable of the test until its end.
    #[must_use]
    pub fn begin() -> Self {
        Story { running: Mutex::new(None) }
    }

    /// Ends the running step and begins the next one, which `name` tells as an order: "delete the
    /// agent's pod".
    pub fn step(&self, name: impl Into<String>) {
        self.turn(Some(name.into()));
    }

    fn turn(&self, next: Option<String>) {
        let next = next.map(|name| (name, Instant::now()));
        // A panic in another thread that held the lock has not broken a name and a time.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, began)) = std::mem::replace(&mut *running, next) {
            let seconds = began.elapsed().as_secs_f64();
            if std::thread::panicking() {
                eprintln!("the step that failed, after {seconds:.1} s: {name}");
            } else {
                println!("{seconds:6.1} s  {name}");
            }
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.turn(None);
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    /// Set where this test runs itself, to fail on purpose.
    const FAILING: &str = "NETPOLC_FAILING_STORY";

    #[test]
    fn a_failure_names_the_step_that_was_running() {
        if env::var_os(FAILING).is_some() {
            let story = Story::begin();
            story.step("go well");
            story.step("go wrong");
            panic!("as it should");
        }
        let mut command = Command::new(env::current_exe().unwrap());
        let itself = "story::tests::a_failure_names_the_step_that_was_running";
        let output = command.args(["--exact", itself]).env(FAILING, "1").output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stdout);
        let (well, wrong) = (text.find("s  go well"), text.find("s: go wrong"));
        assert!(
            well.is_some() && well < text.find("as it should") && text.find("as it should") < wrong,
            "{text}"
        );
    }
}
