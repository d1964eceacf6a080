//! The files of the repository, for the tests that read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The root of the repository, found from the package that the tests are registered in.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace")
}

/// The text of a file, by its path from the root of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every source file in Rust, in the order of the crates' folders.
pub fn sources() -> Vec<PathBuf> {
    let folders = ["compiler", "targets", "kube-sync", "runtime", "testbed"];
    folders.iter().flat_map(|f| files(&root().join(f), &["rs"])).collect()
}

/// Files below `folder` with one of these endings, build output left out, in order.
pub fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|e| endings.iter().any(|x| e == *x)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
