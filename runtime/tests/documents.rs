//! Keeps the documents true: every item of docs/semantics.md that is cited exists and is proved,
//! links and paths lead somewhere, every page is linked, and prose stays within its columns. Not
//! here: what holds for code and its manifests (`architecture.rs`).

mod tree;

use std::{collections::BTreeSet, fs, path::PathBuf};

use tree::{files, read, root, sources};

/// The number of an item of docs/semantics.md and its letter, where it has one: S39a is (39, "a").
type Item = (u32, String);

/// The items that are cited in a text: `S`, one or two digits, at most one letter, as a word.
fn cited(text: &str) -> BTreeSet<Item> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter_map(|word| item(word.strip_prefix('S')?)).collect()
}

/// The items that a test's name begins with: `s41_s42_...`.
fn named(function: &str) -> BTreeSet<Item> {
    function.split('_').map_while(|part| item(part.strip_prefix('s')?)).collect()
}

fn item(word: &str) -> Option<Item> {
    let (number, letter) =
        word.split_at(word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len()));
    let fits = (1..=2).contains(&number.len())
        && letter.len() <= 1
        && letter.bytes().all(|b| b.is_ascii_lowercase());
    fits.then(|| Some((number.parse().ok()?, letter.to_owned())))?
}

/// Those that docs/semantics.md defines: `**S12.**` at the beginning of a line.
fn defined() -> BTreeSet<Item> {
    let text = read("docs/semantics.md");
    let heads =
        text.lines().filter_map(|line| item(line.strip_prefix("**S")?.split_once(".**")?.0));
    let items: Vec<Item> = heads.collect();
    let set: BTreeSet<Item> = items.iter().cloned().collect();
    assert_eq!(
        items,
        set.iter().cloned().collect::<Vec<_>>(),
        "docs/semantics.md: not in order, or one twice"
    );
    set
}

#[test]
fn every_item_that_is_cited_is_defined() {
    let defined = defined();
    let mut all = documents();
    all.extend(files(&root().join("testbed"), &["yaml", "sh", "c", "h", "go"]));
    all.extend(files(&root().join("runtime/deploy"), &["yaml", "tpl", "txt"]));
    all.extend(sources());
    for file in all {
        let cited = cited(&fs::read_to_string(&file).unwrap());
        let missing: Vec<&Item> = cited.difference(&defined).collect();
        assert!(
            missing.is_empty(),
            "{}: docs/semantics.md does not define {missing:?}",
            file.display()
        );
    }
}

/// An item is proved by a test whose name or doc comment cites it, by a case of the corpus, or by a
/// case of the conformance suite.
#[test]
fn every_item_is_proved() {
    let mut proved = BTreeSet::new();
    for file in files(&root().join("testbed/cases"), &["yaml"]) {
        let text = fs::read_to_string(&file).unwrap();
        let lines =
            text.lines().filter(|line| line.starts_with("items: ") || line.contains("item: "));
        lines.for_each(|line| proved.extend(cited(line)));
    }
    for file in files(&root().join("targets/api/src/conformance"), &["rs"]) {
        let text = fs::read_to_string(&file).unwrap();
        let lines =
            text.lines().filter(|line| line.contains("Case::new(") || line.contains("let case = "));
        lines.for_each(|line| proved.extend(cited(line)));
    }
    for file in sources() {
        let (mut doc, mut is_test) = (String::new(), false);
        for line in fs::read_to_string(&file).unwrap().lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("///") {
                doc.push_str(comment);
                doc.push('\n');
            } else if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            } else {
                let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let (true, Some(name)) = (is_test, name) {
                    proved.extend(cited(&doc));
                    proved.extend(named(name));
                }
                (doc, is_test) = (String::new(), false);
            }
        }
    }
    let missing: Vec<String> =
        defined().difference(&proved).map(|(n, letter)| format!("S{n}{letter}")).collect();
    assert!(missing.is_empty(), "no test or case proves {missing:?}");
}

/// Prose is wrapped at 100 columns; tables and code blocks are not.
#[test]
fn prose_stays_within_100_columns() {
    for file in documents() {
        let mut code = false;
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            let table = line.trim_start().starts_with('|');
            let columns = line.chars().count();
            assert!(
                code || fence || table || columns <= 100,
                "{}:{}: {columns} columns",
                file.display(),
                number + 1
            );
        }
        assert!(!code, "{}: a code block does not end", file.display());
    }
}

/// Links from one file of the repository to another lead somewhere, headings included.
#[test]
fn links_between_documents_lead_somewhere() {
    for file in documents() {
        let text = fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: no {link}", file.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.any(|h| h == heading), "{}: no heading {link}", file.display());
            }
        }
    }
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What documents name as a path of the repository exists.
#[test]
fn paths_in_documents_exist() {
    for file in documents() {
        let text = fs::read_to_string(&file).unwrap();
        for word in text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace) {
            let ours =
                [".ci/", "compiler/", "docs/", "kube-sync/", "runtime/", "targets/", "testbed/"];
            if ours.iter().any(|folder| word.starts_with(folder)) {
                assert!(root().join(word).exists(), "{}: no {word}", file.display());
            }
        }
    }
}

/// README.md and docs/README.md lead to every page.
#[test]
fn every_page_is_linked() {
    for page in files(&root().join("docs"), &["md"]) {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            read("README.md").contains(&format!("(docs/{name})")),
            "README.md does not link {name}"
        );
        assert!(
            name == "README.md" || read("docs/README.md").contains(&format!("({name})")),
            "docs/README.md: {name}"
        );
    }
}

/// Every Markdown file of the repository.
fn documents() -> Vec<PathBuf> {
    let here = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        here.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    let folders = [".github", "compiler", "docs", "kube-sync", "runtime", "targets", "testbed"];
    all.extend(folders.iter().flat_map(|folder| files(&root().join(folder), &["md"])));
    all.sort();
    all
}
