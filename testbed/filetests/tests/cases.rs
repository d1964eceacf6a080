//! The runner: every case prints what stands in its `.out`, and every `.out` belongs to a case.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use netpolc_filetests::{Case, run, unified};

const HOW: &str =
    "read the difference; where it is right, `BLESS=1 cargo test -p netpolc-filetests` writes it";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Files below `folder`, in order.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

/// The path below `cases`.
fn name(path: &Path) -> String {
    path.strip_prefix(folder()).unwrap_or(path).display().to_string()
}

/// What the case prints.
fn printed(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    Case::parse(&stem, &text).and_then(|case| run(&case)).map_err(|fault| fault.to_string())
}

#[test]
fn every_case_prints_what_is_blessed() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut faults = Vec::new();
    for path in files(&folder()).iter().filter(|p| p.extension().is_some_and(|e| e == "yaml")) {
        let out = path.with_extension("out");
        let printed = match printed(path) {
            Ok(printed) => printed,
            Err(fault) => {
                faults.push(format!("{}: {fault}", name(path)));
                continue;
            }
        };
        if bless {
            fs::write(&out, &printed).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
            continue;
        }
        match fs::read_to_string(&out) {
            Ok(blessed) if blessed == printed => {}
            Ok(blessed) => {
                faults.push(unified((&name(&out), &blessed), ("what is printed", &printed)))
            }
            Err(_) => faults
                .push(format!("{}: there is no .out for it yet; it prints\n{printed}", name(path))),
        }
    }
    assert!(faults.is_empty(), "{} cases\n\n{}\n\n{HOW}", faults.len(), faults.join("\n\n"));
}

#[test]
fn every_output_belongs_to_a_case() {
    let all = files(&folder());
    let ending = |path: &Path| {
        path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default()
    };
    for path in &all {
        match ending(path).as_str() {
            "yaml" => {}
            "out" => assert!(
                all.contains(&path.with_extension("yaml")),
                "{}: its case is gone",
                name(path)
            ),
            _ => panic!("{}: a case is NAME.yaml with NAME.out", name(path)),
        }
    }
}
