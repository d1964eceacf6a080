//! Writes a big cluster as JSON List files:
//! `cargo run --release -p netpolc-testbed --example big -- FOLDER [PODS]`.

use std::{env, fs, path::Path, process::ExitCode, time::Instant};

use netpolc_testbed::big::Big;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (folder, pods) = match arguments.as_slice() {
        [folder] => (folder, Ok(Big::default().pods)),
        [folder, pods] => (folder, pods.parse::<usize>()),
        _ => {
            eprintln!("usage: big FOLDER [PODS]");
            return ExitCode::from(2);
        }
    };
    let Ok(pods) = pods else {
        eprintln!("PODS is a number");
        return ExitCode::from(2);
    };
    let whole = Big::default();
    // A hundredth of the pods comes with a hundredth of the namespaces and policies.
    let part = |of: usize| (of * pods).div_ceil(whole.pods).max(1);
    let big =
        Big { pods, namespaces: part(whole.namespaces), policies: part(whole.policies), ..whole };
    let begin = Instant::now();
    let written = fs::create_dir_all(folder).and_then(|()| big.write(Path::new(folder)));
    match written {
        Err(error) => {
            eprintln!("{folder}: {error}");
            ExitCode::FAILURE
        }
        Ok(files) => {
            let bytes: u64 =
                files.iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.len()).sum();
            println!("{} files, {} MB, {:?}", files.len(), bytes / 1_000_000, begin.elapsed());
            ExitCode::SUCCESS
        }
    }
}
