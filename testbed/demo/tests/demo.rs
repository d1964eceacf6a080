//! The demo: every real connection goes as the policies say, and nothing is left behind,
//! interrupted or not. Needs root.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

/// Namespaces of the demo's process; their names hold its number.
fn namespaces_of(pid: u32) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|e| e.file_name().into_string().ok());
    names.filter(|n| n.contains(&format!("-{pid}x"))).collect()
}

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc-demo"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The README's excerpt is what the demo prints, line for line and in its order, but for times.
fn the_readme_shows_of_it(text: &str) {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (_, shown) = readme.split_once("\n# netpolc demo\n").expect("the transcript");
    let timeless = |line: &str| {
        let words = line.split_whitespace();
        words
            .map(|word| {
                if word.parse::<f64>().is_ok() && word.contains('.') { "N" } else { word }
                    .to_owned()
            })
            .collect()
    };
    let mut printed = text.lines().map(timeless);
    for line in shown.lines().take_while(|line| *line != "```").filter(|line| *line != "...") {
        let wanted: Vec<String> = timeless(line);
        assert!(
            printed.any(|line| line == wanted),
            "the demo does not print, or not here: {line}\n{text}"
        );
    }
}

#[test]
fn the_shop_obeys_its_policies_and_leaves_nothing() {
    let child = demo().spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(
        text.contains("isolated by ui/default-deny")
            && text.contains("isolated by orders/from-checkout"),
        "{text}"
    );
    assert!(!text.contains("WRONG"), "{text}");
    the_readme_shows_of_it(&text);
    assert_eq!(namespaces_of(pid), Vec::<String>::new());
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut child = demo().spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // In the middle of it: the agents have started.
        let mut line = String::new();
        while !line.contains("node n1") {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the demo ended early");
        }
        assert_ne!(namespaces_of(child.id()), Vec::<String>::new());
        // SAFETY: kill(2) takes integers only. The number is that of our own child, which is not
        // reaped before the wait below, so it cannot belong to another process.
        unsafe { libc::kill(child.id() as i32, signal) };
        let _ = lines.read_to_end(&mut Vec::new());
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "netpolc: interrupted\n");
        assert_eq!(namespaces_of(pid), Vec::<String>::new());
    }
}
