//! `netpolc lint` as a user meets it: where findings stand, exit codes, and the formats that others
//! parse. The checks have their tests in compiler/analyze.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use netpolc_analyze::lint::Check;
use netpolc_testbed::feed::feed;
use serde_json::Value;

fn lint(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    command.arg("lint").args(arguments).env("NO_COLOR", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    feed(&mut command, input.as_bytes()).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A policy with a typing error in its peer, which isolates the only pod.
fn typo(annotation: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop, labels: {{app: web}}}}
spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIP: 10.0.0.1}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: api
  namespace: shop
  annotations: {{{annotation}}}
spec:
  podSelector: {{}}
  ingress:
  - from:
    - podSelector:
        matchLabels: {{app: wbe}}
"
    )
}

#[test]
fn a_finding_names_its_line_and_what_to_write() {
    let output = lint(&["-f", "-"], &typo(""));
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), ""));
    let lines = [
        "note: 1 pod may reach the cloud's metadata service, since no policy isolates its egress. \
         [metadata-reachable]",
        "    Deny 169.254.169.254 and fd00:ec2::254 by a ClusterNetworkPolicy of the tier Admin, \
         or isolate egress.",
        "-:21: warning: NetworkPolicy shop/api: The peer means nobody: no pod of namespace shop \
         has app=wbe. [peer-means-nobody]",
        "    Write app=web, which there is.",
        "1 warning, 1 note",
        "",
    ];
    assert_eq!(text(&output.stdout), lines.join("\n"));
}

#[test]
fn the_exit_code_says_whether_there_is_something_that_is_denied() {
    for (arguments, code) in [
        (&["--deny", "errors"][..], 0),
        (&["--deny", "warnings"], 1),
        (&["--deny", "notes"], 1),
        (&["--deny", "nothing"], 0),
        (&["--allow", "peer-means-nobody"], 0),
        (&["--allow", "peer-means-nobody", "--deny", "notes"], 1),
        (&["--allow", "peer-means-nobody", "--allow", "metadata-reachable", "--deny", "notes"], 0),
        (&["--allow", "peer-means-nobod"], 2),
        (&["--deny", "everything"], 2),
    ] {
        let output = lint(&[&["-f", "-"], arguments].concat(), &typo(""));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
    let broken = typo("").replace("app: wbe", "app: [web]");
    let output = lint(&["-f", "-", "--deny", "errors"], &broken);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("-:22: error: NetworkPolicy shop/api: spec.ingress[0]"));
    assert!(text(&output.stdout).contains("[refused-field]"), "{}", text(&output.stdout));
}

#[test]
fn an_object_says_what_is_meant_as_it_is() {
    let allowed = typo("netpolc.io/lint-allow: \"peer-means-nobody, dns-denied\"");
    let output = lint(&["-f", "-"], &allowed);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).ends_with("1 note, 1 allowed\n"), "{}", text(&output.stdout));
    let other = typo("netpolc.io/lint-allow: peer-means-nobdy");
    let output = lint(&["-f", "-"], &other);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("names \"peer-means-nobdy\""));
}

#[test]
fn policies_of_one_priority_that_disagree_are_found() {
    let tier = |name: &str, priority: u16, action: &str| {
        format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
             metadata: {{name: {name}}}\nspec: {{tier: Admin, priority: {priority}, subject: \
             {{namespaces: {{}}}}, egress: [{{action: {action}, to: [{{networks: \
             [192.0.2.0/24]}}]}}]}}\n"
        )
    };
    let with = |other: u16| typo("") + &tier("one", 5, "Accept") + &tier("two", other, "Deny");
    let output = lint(&["-f", "-", "-o", "csv"], &with(5));
    let found = text(&output.stdout);
    assert!(found.contains("warning,tier-conflict,-,"), "{found}");
    assert!(found.contains("ClusterNetworkPolicy one,spec.priority"), "{found}");
    let output = lint(&["-f", "-", "-o", "csv"], &with(6));
    assert!(!text(&output.stdout).contains("tier-conflict"), "{}", text(&output.stdout));
}

/// What GitHub demands of a log: "SARIF support for code scanning", supported properties.
#[test]
fn sarif_has_what_code_scanning_demands() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lint-sarif");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("a policy.yaml");
    fs::write(&file, typo("")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    command.args(["lint", "-o", "sarif", "-f"]).arg(&file).current_dir(&folder);
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), ""));
    let log: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].as_str().unwrap().ends_with("sarif-schema-2.1.0.json"));
    let runs = log["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1);
    let driver = &runs[0]["tool"]["driver"];
    assert_eq!(driver["name"], "netpolc");
    let levels = ["error", "warning", "note"];
    let rules = driver["rules"].as_array().unwrap();
    assert_eq!(rules.len(), Check::ALL.len());
    for (rule, check) in rules.iter().zip(Check::ALL) {
        assert_eq!(rule["id"], check.id());
        assert!(!rule["shortDescription"]["text"].as_str().unwrap().is_empty());
        assert!(!rule["fullDescription"]["text"].as_str().unwrap().is_empty());
        assert!(!rule["help"]["text"].as_str().unwrap().is_empty());
        let page = format!("/docs/lint.md#{}", check.id());
        assert!(rule["helpUri"].as_str().unwrap().ends_with(&page));
        assert!(levels.contains(&rule["defaultConfiguration"]["level"].as_str().unwrap()));
    }
    let results = runs[0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(levels.contains(&result["level"].as_str().unwrap()));
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let locations = result["locations"].as_array().unwrap();
        assert_eq!(locations.len(), 1);
        let place = &locations[0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20policy.yaml");
        assert!(place["region"]["startLine"].as_u64().unwrap() >= 1);
    }
    let peer = results.iter().find(|result| result["ruleId"] == "peer-means-nobody").unwrap();
    assert_eq!(peer["locations"][0]["physicalLocation"]["region"]["startLine"], 21);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_other_formats_say_the_same() {
    let of = |format: &str| {
        let output = lint(&["-f", "-", "--allow", "metadata-reachable", "-o", format], &typo(""));
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), ""), "{format}");
        text(&output.stdout).to_owned()
    };
    assert_eq!(
        of("github"),
        "::warning file=-,line=21,title=peer-means-nobody::NetworkPolicy shop/api: The peer means \
         nobody: no pod of namespace shop has app=wbe.%0AWrite app=web, which there is.\n"
    );
    assert_eq!(
        of("markdown").lines().last().unwrap(),
        "| warning | `-:21` | NetworkPolicy shop/api: The peer means nobody: no pod of namespace \
         shop has app=wbe. | Write app=web, which there is. | peer-means-nobody |"
    );
    assert_eq!(
        of("csv"),
        "severity,check,file,line,object,field,message,change\r\nwarning,peer-means-nobody,-,21,\
         NetworkPolicy shop/api,spec.ingress[0].from[0],The peer means nobody: no pod of namespace \
         shop has app=wbe.,\"Write app=web, which there is.\"\r\n"
    );
    let json: Value = serde_json::from_str(&of("json")).unwrap();
    assert_eq!(json["allowed"], 1);
    let finding = &json["findings"][0];
    assert_eq!(finding["check"], "peer-means-nobody");
    assert_eq!(finding["severity"], "warning");
    assert_eq!((&finding["file"], &finding["line"]), (&"-".into(), &21.into()));
    assert_eq!(finding["field"], "spec.ingress[0].from[0]");
}

#[test]
fn the_page_explains_every_check_and_nothing_else() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lint.md");
    let page = fs::read_to_string(page).unwrap();
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let ids: Vec<&str> = Check::ALL.iter().map(|check| check.id()).collect();
    assert_eq!(headings, ids);
}
