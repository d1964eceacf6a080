//! `netpolc version`: the version, and what the kernel has of what netpolc uses. Not here: what
//! NICs can do (`netpolc offload`).

use std::{fs, io::Write, path::Path};

use crate::output::{self, Outcome};

/// The first kernel with TCX links.
const TCX: (u32, u32) = (6, 6);
/// The first kernel on which the eBPF target is tested.
const TESTED: (u32, u32) = (6, 1);

/// Runs `netpolc version`.
///
/// # Errors
/// Standard output cannot be written.
pub fn run() -> anyhow::Result<Outcome> {
    let mut out = output::stdout();
    writeln!(out, "netpolc {} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let Some(version) = version(release) else {
        writeln!(out, "kernel: {release:?} is no version of Linux, so nothing is known of it")?;
        out.flush()?;
        return Ok(Outcome::Fine);
    };
    writeln!(out, "kernel {release}")?;
    for (what, has) in [
        ("eBPF target", if version >= TESTED { "yes" } else { "not tested before Linux 6.1" }),
        ("attachment", if version >= TCX { "TCX links" } else { "clsact (TCX needs Linux 6.6)" }),
        (
            "BPF file system",
            match is_bpffs(Path::new("/sys/fs/bpf")) {
                true => "at /sys/fs/bpf",
                false => "not mounted at /sys/fs/bpf; the agent's DaemonSet mounts it",
            },
        ),
        (
            "flower filters",
            match has_symbol("fl_classify") {
                true => "yes",
                false => "not now; the kernel loads cls_flower when it is asked, where it has it",
            },
        ),
    ] {
        writeln!(out, "  {what}: {has}")?;
    }
    out.flush()?;
    Ok(Outcome::Fine)
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Does the kernel, or a module that is loaded, have a function of this name?
fn has_symbol(name: &str) -> bool {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols.lines().any(|line| line.split_ascii_whitespace().nth(2) == Some(name))
}

/// Is a BPF file system mounted there?
fn is_bpffs(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next(), fields.next(), fields.next());
        at.is_some_and(|at| Path::new(at) == path) && kind == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_two_numbers() {
        for (release, numbers) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("6.18", Some((6, 18))),
            ("generic", None),
        ] {
            assert_eq!(version(release), numbers, "{release}");
        }
    }
}
