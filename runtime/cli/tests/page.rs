//! The pages of `list` and `diff` in a real browser: a person finds a connection, filters, and
//! clicks through to the explanation. Needs Chromium, as testbed/scripts/install.sh installs it.
//! With SCREENSHOTS=DIR the pictures of the documentation are taken on the way.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::folder::Folder;
use serde_json::Value;

const SHOP: &str = include_str!("../../../testbed/examples/shop.yaml");

/// A folder with the shop in it.
struct Shop(Folder);

impl Shop {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        folder.write("shop.yaml", SHOP);
        Self(folder)
    }

    /// Runs netpolc in the folder; what it prints is the page.
    fn page(&self, arguments: &[&str]) -> PathBuf {
        let out = Command::new(env!("CARGO_BIN_EXE_netpolc"))
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .expect("netpolc runs");
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments:?}: {errors}");
        self.0.write("page.html", &String::from_utf8(out.stdout).expect("UTF-8")).into()
    }
}

/// Opens the page with a script behind it, and returns what the script has put into `window.seen`.
fn browse(page: &Path, script: &str) -> Value {
    let html = fs::read_to_string(page).expect("the page");
    let script = format!(
        "<script>window.seen = {{}}; try {{ {script} }} catch (e) {{ window.seen.error = '' + e; }}
        document.title = JSON.stringify(window.seen);</script></body>"
    );
    let file = page.with_extension("tried.html");
    fs::write(&file, html.replacen("</body>", &script, 1)).expect("a file");
    let dom = chromium(&file, &["--dump-dom"]);
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next());
    let title = title.unwrap_or_else(|| panic!("the page has no title:\n{dom}"));
    let text = title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn chromium(file: &Path, options: &[&str]) -> String {
    let profile = file.with_extension("profile");
    let out = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(options)
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .output()
        .expect("chromium is missing; testbed/scripts/install.sh browser installs it");
    assert!(out.status.success(), "chromium: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Takes a picture for the documentation, where that was asked for.
fn picture(page: &Path, name: &str) {
    let Some(folder) = std::env::var_os("SCREENSHOTS") else { return };
    let file = Path::new(&folder).join(name);
    let option = format!("--screenshot={}", file.display());
    chromium(page, &[&option, "--window-size=1200,640", "--hide-scrollbars"]);
    assert!(file.exists(), "there is no picture");
}

const CELL: &str = "const cell = (a, b) => document.querySelector(
    `td[data-source='${a}'][data-destination='${b}']`);";

#[test]
fn a_field_of_the_matrix_leads_to_the_explanation() {
    let folder = Shop::new("page-list");
    let page = folder.page(&["list", "-f", "shop.yaml", "-o", "html"]);
    let seen = browse(
        &page,
        &format!(
            "{CELL}
            cell('shop/web', 'shop/db').click();
            seen.allowed = document.getElementById('answer').textContent;
            cell('tools/probe', 'shop/db').click();
            seen.denied = document.getElementById('answer').textContent;
            seen.kinds = [cell('shop/web', 'shop/db').className,
                          cell('tools/probe', 'shop/db').className];
            seen.count = document.getElementById('count').textContent;"
        ),
    );
    assert_eq!(seen["error"], Value::Null);
    assert_eq!(seen["kinds"], serde_json::json!(["all", ""]));
    let allowed = seen["allowed"].as_str().expect("text");
    assert!(allowed.contains("ingress of shop/db: allowed"), "{allowed}");
    assert!(allowed.contains("shop.yaml:"), "{allowed}");
    let denied = seen["denied"].as_str().expect("text");
    assert!(denied.contains("namespace tools has no label project"), "{denied}");
    let clicked = page.with_extension("clicked.html");
    let html = fs::read_to_string(&page).expect("the page");
    let click =
        format!("<script>{{{CELL} cell('tools/probe', 'shop/db').click();}}</script></body>");
    fs::write(&clicked, html.replacen("</body>", &click, 1)).expect("a file");
    picture(&clicked, "list.png");
}

#[test]
fn a_search_and_the_graph_show_what_was_asked_for() {
    let folder = Shop::new("page-search");
    let page = folder.page(&["list", "-f", "shop.yaml", "-o", "html"]);
    let seen = browse(
        &page,
        "const search = document.getElementById('search');
        const all = document.querySelectorAll('td[data-source]').length;
        search.value = 'TCP 9187';
        search.dispatchEvent(new Event('input', { bubbles: true }));
        seen.fewer = document.querySelectorAll('td[data-source]').length < all;
        seen.marked = document.querySelectorAll('td.all').length;
        document.querySelector('[value=graph]').click();
        const lines = [...document.querySelectorAll('svg path[data-ends]')];
        seen.lines = lines.map(line => line.dataset.ends);
        lines[0].dispatchEvent(new Event('click'));
        seen.answer = document.getElementById('answer').textContent;
        document.getElementById('outside').click();
        search.value = '';
        search.dispatchEvent(new Event('input', { bubbles: true }));
        seen.outside = [...document.querySelectorAll('svg text')]
            .some(name => name.textContent.includes('anywhere'));",
    );
    assert_eq!(seen["error"], Value::Null);
    assert_eq!(seen["fewer"], true);
    assert_eq!(seen["marked"], 1);
    assert_eq!(seen["lines"], serde_json::json!(["[\"shop/web\",\"shop/db\"]"]));
    assert!(seen["answer"].as_str().expect("text").starts_with("shop/web -> shop/db\nTCP 9187"));
    assert_eq!(seen["outside"], false);
}

#[test]
fn a_difference_is_marked() {
    let folder = Shop::new("page-diff");
    let policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {matchLabels: {app: wbe}}, policyTypes: [Egress]}
";
    folder.0.write("deny.yaml", policy);
    let page = folder.page(&["diff", "shop.yaml", "deny.yaml", "-o", "html"]);
    let seen = browse(
        &page,
        &format!(
            "{CELL}
            seen.kind = cell('shop/web', 'shop/db').className;
            seen.mark = cell('shop/web', 'shop/db').textContent;
            seen.title = document.getElementById('title').textContent;"
        ),
    );
    assert_eq!(seen["error"], Value::Null);
    assert_eq!(seen["kind"], "lost");
    assert_eq!(seen["mark"], "−");
    assert_eq!(seen["title"], "Who gains and who loses which connections");
    let html = fs::read_to_string(&page).expect("the page");
    let data = html.split("application/json\">").nth(1).and_then(|r| r.split("</script>").next());
    assert!(!data.expect("the data").contains('<'), "data could end its own element");
    picture(&page, "diff.png");
}
