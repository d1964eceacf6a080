//! Tests that need another kernel than this machine's: one with flower, and a simulated NIC.
//!
//! Such a test begins with `if lab::outside(itself) { return; }`. On the machine that call runs the
//! same test again in the lab (`testbed/lab/run.sh`) and passes judgement on what came of it; in
//! the lab it says no, and the test goes on. Nothing is skipped: a lab that cannot be built or
//! started fails the test. Here too: what such tests stand on, the simulated NIC ([`simnic`]),
//! scripts and real frames ([`wire`]). Not here: the kernel and the module (`testbed/lab`).

use std::{
    any::type_name,
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

pub mod wire;

/// Set in the lab: the folder of its kernel.
pub const INSIDE: &str = "NETPOLC_LAB";
/// Set in the lab: the simulated NIC's module, built for its kernel.
pub const MODULE: &str = "NETPOLC_SIMNIC";

/// Seconds that a test may take in the lab, its start included.
const TIMEOUT_SECONDS: &str = "300";

/// One lab at a time in a process: each has a whole processor busy.
static BUSY: Mutex<()> = Mutex::new(());

/// Called as `if lab::outside(this_test) { return; }` with the test function itself, whose name it
/// needs.
///
/// Outside of the lab it runs that test inside, prints its output, and returns true.
///
/// # Panics
/// Where the lab cannot be built or started, where the test fails in it, or where not exactly this
/// test ran in it.
pub fn outside<T, F: Fn() -> T>(_test: F) -> bool {
    if env::var_os(INSIDE).is_some() {
        return false;
    }
    let _alone = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    // crate::module::test; the harness leaves out the crate.
    let path = type_name::<F>();
    let name = path.split_once("::").map_or(path, |(_, rest)| rest);
    let binary = env::current_exe().expect("the path of this test");
    let mut command = Command::new(folder().join("run.sh"));
    command.args(["-t", TIMEOUT_SECONDS, "--"]).arg(binary);
    command.args([name, "--exact", "--nocapture", "--test-threads=1", "--include-ignored"]);
    command.env(MODULE, module());
    let (output, text) = finish(&mut command);
    assert!(output.status.success(), "{name} fails in the lab ({}):\n{text}", output.status);
    assert!(text.contains("test result: ok. 1 passed"), "the lab did not run {name}:\n{text}");
    // What a test measures is worth reading; cargo shows it with --nocapture.
    print!("{text}");
    true
}

/// Loads the simulated NIC with the personality of a driver (`mlx5_core`, `ice`, ...; `simnic` is
/// one without faults) and `pairs` pairs of a representor (`simr0`...) and the port behind it
/// (`simv0`...), besides the uplink's representor `simp0` and the wire's end `simw0`. `knobs` are
/// further parameters of the module.
///
/// # Panics
/// Outside of the lab, and where the kernel refuses the module.
pub fn simnic(driver: &str, pairs: usize, knobs: &[(&str, &str)]) -> Simnic {
    let module = env::var_os(MODULE).expect("lab::simnic works in the lab only");
    let mut command = Command::new("insmod");
    command.arg(module).arg(format!("driver={driver}")).arg(format!("pairs={pairs}"));
    command.args(knobs.iter().map(|(name, value)| format!("{name}={value}")));
    let (output, text) = finish(&mut command);
    assert!(output.status.success(), "{command:?}: {text}");
    Simnic { _only: () }
}

/// The simulated NIC while it is loaded.
#[derive(Debug)]
pub struct Simnic {
    _only: (),
}

impl Simnic {
    /// Its counters, by `port.name` (`simr0.hw_drop`) and for the whole device (`nic.rules`).
    ///
    /// # Panics
    /// Where debugfs cannot be read.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let path = "/sys/kernel/debug/simnic/counters";
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let line = |line: &str| {
            let (key, value) = line.split_once(' ').expect("lines of key and value");
            (key.to_owned(), value.parse().expect("a number"))
        };
        text.lines().map(line).collect()
    }

    /// The value of one of the simulated NIC's counters.
    ///
    /// # Panics
    /// Where there is none of this name.
    pub fn counter(&self, name: &str) -> u64 {
        *self.counters().get(name).unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Unloads it, with its ports.
    ///
    /// # Panics
    /// Where the kernel refuses that.
    pub fn unload(self) {
        let (output, text) = finish(Command::new("rmmod").arg("simnic"));
        assert!(output.status.success(), "rmmod: {text}");
    }
}

/// Runs a script (`sh -e`) in the lab and gives what it printed.
///
/// # Panics
/// Where a command of it fails; the message has the script and its output.
pub fn shell(script: &str) -> String {
    let (output, text) = finish(Command::new("sh").args(["-ec", script]));
    assert!(output.status.success(), "{script}\n{text}");
    text
}

/// What the kernel logged that no test may cause: warnings, bugs and stack traces.
///
/// # Panics
/// Where there is any, or dmesg cannot be read.
pub fn assert_kernel_is_quiet() {
    let (output, text) = finish(&mut Command::new("dmesg"));
    assert!(output.status.success(), "dmesg: {text}");
    let bad: Vec<&str> = text
        .lines()
        // With their colons: a temporary folder's name on the kernel's command line has none.
        .filter(|l| ["BUG:", "WARNING:", "Call Trace:", "Oops:"].iter().any(|w| l.contains(w)))
        .collect();
    assert!(bad.is_empty(), "the kernel complains:\n{text}");
}

/// Builds the module (once for each version of its sources) and gives its path.
fn module() -> PathBuf {
    let script = folder().join("simnic.sh");
    let output =
        Command::new(&script).output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", script.display());
    String::from_utf8(output.stdout).expect("a path in UTF-8").trim_end().into()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/lab"))
}

fn finish(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    (output, text)
}
