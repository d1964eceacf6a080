//! What keeps the crate readable one file at a time: modules import one another without circles,
//! and only one file implements the compiler.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

type Imports = BTreeMap<String, BTreeSet<String>>;

/// Source of each module by its path, as `membership::pods`; the crate's root is the empty one.
fn modules() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut found);
    found
}

fn collect(folder: &Path, module: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let child = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
        if path.is_dir() {
            collect(&path, &child, found);
        } else {
            let is_parent = name == "lib" || name == "mod";
            let source = fs::read_to_string(&path).expect("source");
            found.insert(if is_parent { module.to_owned() } else { child }, source);
        }
    }
}

/// Source without comments and without unit tests, which are at the end of each file.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// All paths in code that begin with `crate`, `super` or `self`, with braces expanded.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                expand("", &code[at..], &mut found);
            }
        }
    }
    found
}

/// Expands the path at the beginning of `text` and returns what follows it.
fn expand<'a>(prefix: &str, text: &'a str, found: &mut Vec<String>) -> &'a str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let (path, mut rest) = text.split_at(end.unwrap_or(text.len()));
    let path = format!("{prefix}{path}");
    if !rest.starts_with('{') {
        found.push(path.trim_end_matches("::").to_owned());
        return rest;
    }
    while !rest.starts_with('}') {
        rest = rest[1..].trim_start();
        // The last comma is followed by nothing.
        if !rest.starts_with('}') {
            rest = expand(&path, rest, found);
            // An alias may come first.
            rest = &rest[rest.find([',', '}']).expect("a list that ends")..];
        }
    }
    &rest[1..]
}

/// The module that a path is about, seen from `module`: the longest of its beginnings that is one.
fn target(path: &str, module: &str, modules: &BTreeMap<String, String>) -> String {
    let mut at: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    for part in path.split("::") {
        match part {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            part => at.push(part),
        }
    }
    while !at.is_empty() && !modules.contains_key(&at.join("::")) {
        at.pop();
    }
    at.join("::")
}

fn imports(modules: &BTreeMap<String, String>) -> Imports {
    let of = |module: &String, source: &String| {
        let targets = paths(&code(source)).into_iter().map(|path| target(&path, module, modules));
        targets.filter(|target| target != module).collect()
    };
    modules.iter().map(|(module, source)| (module.clone(), of(module, source))).collect()
}

/// Modules each of which imports the next one, and the last one the first.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| search(module, imports, &mut Vec::new(), &mut done))
}

fn search(
    module: &String,
    imports: &Imports,
    way: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(first) = way.iter().position(|m| m == module) {
        return Some(way[first..].to_vec());
    }
    if !done.insert(module.clone()) {
        return None;
    }
    way.push(module.clone());
    let next = imports.get(module).into_iter().flatten();
    let found = next.into_iter().find_map(|next| search(next, imports, way, done));
    way.pop();
    found
}

#[test]
fn no_module_imports_itself_through_others() {
    let modules = modules();
    let mut imports = imports(&modules);
    // The root declares and re-exports; nobody takes anything from there.
    imports.remove("");
    for (module, targets) in &imports {
        assert!(!targets.contains(""), "{module} imports from lib.rs: name the module instead");
    }
    assert!(
        imports["compiler"].contains("worklist")
            && imports["membership"].contains("membership::pods")
    );
    assert_eq!(circle(&imports), None, "each imports the next one, and the last the first");
}

#[test]
fn only_one_file_implements_the_compiler() {
    for (module, source) in modules() {
        assert!(module == "compiler" || !code(&source).contains("impl Compiler"), "{module}");
    }
}

#[test]
fn a_circle_is_found() {
    let sources = [
        ("", "mod a; mod b;"),
        ("a", "use std::fmt;\nuse crate::{\n    b::{self, One},\n    c::Two,\n};"),
        ("b", "fn f() { super::c::g(&crate::c::Three) }"),
        ("c", "//! See [`crate::a`].\npub(crate) use self::d::Four;"),
        ("c::d", "#[cfg(test)]\nuse crate::a;"),
    ];
    let mut modules: BTreeMap<String, String> = sources.map(|(m, s)| (m.into(), s.into())).into();
    let found = imports(&modules);
    assert_eq!(found["a"], ["b", "c"].map(String::from).into());
    assert_eq!(found["b"], ["c".to_owned()].into());
    assert_eq!(found["c"], ["c::d".to_owned()].into());
    assert_eq!(circle(&found), None);
    modules.insert("c::d".into(), "use crate::{e::X as Y, a::Five};".into());
    let circle = circle(&imports(&modules)).expect("a circle");
    assert!(circle.contains(&"c::d".into()) && circle.contains(&"a".into()), "{circle:?}");
}
