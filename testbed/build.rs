//! Lists the files under `cases/` and `shop/` with their text, so that no program needs them at run
//! time.

use std::{env, fmt::Write as _, fs, io, path::Path};

fn main() -> io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let out = env::var("OUT_DIR").expect("cargo sets it");
    for (name, folder) in [("CASES", "cases"), ("SHOP", "shop")] {
        let mut files = Vec::new();
        collect(&Path::new(&root).join(folder), folder, &mut files)?;
        files.sort();
        let mut text =
            format!("/// The files under `{folder}/`: path below it and text, sorted.\n");
        writeln!(text, "pub(crate) static {name}: &[(&str, &str)] = &[")
            .expect("a string takes all");
        for (shown, path) in files {
            let shown =
                shown.strip_prefix(folder).map_or(shown.as_str(), |s| s.trim_start_matches('/'));
            writeln!(text, "    ({shown:?}, include_str!({path:?})),").expect("a string takes all");
        }
        text.push_str("];\n");
        fs::write(Path::new(&out).join(format!("{folder}.rs")), text)?;
    }
    Ok(())
}

/// Every `.yaml` file below `path`; folders too are watched, so that new files are seen.
fn collect(path: &Path, shown: &str, files: &mut Vec<(String, String)>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", path.display());
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let shown = format!("{shown}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &shown, files)?;
        } else if shown.ends_with(".yaml") {
            files.push((shown, entry.path().display().to_string()));
        }
    }
    Ok(())
}
