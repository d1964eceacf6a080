//! The command as a user meets it: exit codes, one-line errors, output that others parse.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use netpolc_table::TableId;
use netpolc_testbed::feed::feed;
use serde_json::Value;

fn netpolc(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str], input: &str) -> Output {
    feed(&mut netpolc(arguments), input.as_bytes()).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testbed/examples/test-network-policy.yaml")
}

const OOPS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: oops, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{from: []}]
";

#[test]
fn compile_prints_text_that_parses_back() {
    let file = example();
    let output = run(&["compile", "-f", file.to_str().unwrap()], "");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let program = netpolc_table::text::parse(text(&output.stdout)).expect("the text form parses");
    assert_eq!(netpolc_table::text::print(&program), text(&output.stdout));
    let pod = run(&["compile", "-f", file.to_str().unwrap(), "--pod", "default/db-0"], "");
    let part = netpolc_table::text::parse(text(&pod.stdout)).unwrap();
    assert!(part.len() < program.len() && !part.is_empty());
    for table in part.tables() {
        assert!(table.entries.iter().all(|(key, entry)| program.get(table.id, key) == Some(entry)));
    }
}

/// Empty tables and the directory are left out there.
#[test]
fn the_docs_show_what_compile_prints() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/how-it-works.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, shown) =
        page.split_once("\n$ netpolc compile -f testbed/examples/").expect("the transcript");
    let shown: Vec<&str> = shown.lines().skip(1).take_while(|line| *line != "```").collect();
    let file = example();
    let output = run(&["compile", "-f", file.to_str().unwrap(), "--pod", "default/db-0"], "");
    let printed = text(&output.stdout).lines().filter(|line| !line.ends_with("{}"));
    let mut directory = false;
    let printed: Vec<&str> = printed
        .filter(|line| {
            if line.starts_with("table ") {
                directory = line.starts_with("table directory ");
            }
            !directory
        })
        .collect();
    assert_eq!(shown, printed);
}

#[test]
fn every_form_of_output_is_there() {
    let file = example();
    let file = file.to_str().unwrap();
    let json = run(&["compile", "-f", file, "-o", "json"], "");
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["tables"].as_array().is_some_and(|t| t.len() == TableId::ALL.len()));
    assert_eq!(json["format"], netpolc_table::json::FORMAT, "it is no P4Info");
    let yaml = run(&["compile", "-f", file, "-o", "yaml"], "");
    let yaml: Value = serde_saphyr::from_str(text(&yaml.stdout)).unwrap();
    assert_eq!(yaml, json);
    let table = run(&["compile", "-f", file, "-o", "table"], "");
    assert!(text(&table.stdout).contains("isolates default/test-network-policy"));
    let ebpf = run(&["compile", "-f", file, "--target", "ebpf"], "");
    assert!(
        text(&ebpf.stdout).contains("program to_pod:") && text(&ebpf.stdout).contains("remote_v4")
    );
    let ebpf = run(&["compile", "-f", file, "--target", "ebpf", "-o", "json"], "");
    let ebpf: Value = serde_json::from_slice(&ebpf.stdout).unwrap();
    assert_eq!(ebpf["programs"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_refused_object_is_named_and_makes_the_exit_code_1() {
    let output = run(&["compile", "-f", "-"], OOPS);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(
        errors.starts_with("netpolc: -:") && errors.contains("spec.egress[0].from"),
        "{errors}"
    );
    let lines: Vec<&str> = errors.lines().collect();
    assert!(matches!(lines[1..], [pods] if pods.contains("kubectl get pods")), "{errors}");
}

#[test]
fn s33_what_a_share_sets_aside_is_named_and_makes_the_exit_code_1() {
    let pod = |name: &str, node: &str, address: &str| {
        format!(
            "---\nkind: Pod\nmetadata: {{name: {name}, namespace: evil, labels: {{app: a}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: c}}]}}\n\
             status: {{phase: Running, podIPs: [{{ip: {address}}}]}}\n"
        )
    };
    let policy = |peers: usize| {
        let peers: Vec<String> = (0..peers)
            .map(|i| format!("{{podSelector: {{matchLabels: {{app: a{i}}}}}}}"))
            .collect();
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: large, \
             namespace: evil}}\n\
             spec: {{podSelector: {{}}, policyTypes: [Ingress], ingress: [{{from: [{}]}}]}}\n",
            peers.join(", ")
        )
    };
    let nodes = (1..=3).map(|i| format!("---\nkind: Node\nmetadata: {{name: n{i}}}\n"));
    let service = "---\nkind: Service\nmetadata: {name: s, namespace: evil}\n";
    let beside = nodes.collect::<String>() + service;
    let pods = beside + &pod("p1", "n1", "10.0.0.1") + &pod("p2", "n2", "10.0.0.2");
    let said = "NetworkPolicy evil/large is set aside, the pods that it selects stay isolated and \
        it allows nothing: it takes 1001 selectors of peers, namespace evil takes 1001 and may \
        take 1000 on this node";
    let large = pods.clone() + &policy(1_001);
    for (scope, before) in [(&["--node", "n1"][..], ""), (&[], "node n1, n2: ")] {
        let output = run(&[&["compile", "-f", "-"], scope].concat(), &large);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.starts_with(&format!("netpolc: {before}{said}")), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(!output.stdout.is_empty());
    }
    assert_eq!(
        run(&["compile", "-f", "-", "--node", "n3"], &large).status.code(),
        Some(0),
        "no pod of it is there"
    );
    let fits = run(&["compile", "-f", "-"], &(pods + &policy(1_000)));
    assert_eq!((fits.status.code(), text(&fits.stderr)), (Some(0), ""));
}

#[test]
fn wrong_usage_is_exit_code_2_and_one_line() {
    for (arguments, part) in [
        (&["compile", "-f", "-", "--pod", "ui"][..], "namespace/name"),
        (&["compile", "-f", "-", "--pod", "a/b"], "is not in the input"),
        (&["eval", "-f", "-", "--probes", "-"], "standard input"),
        (&["eval", "-f", "-", "--probes", "/nonexistent"], "/nonexistent"),
        (&["status", "--pin-dir", "relative"], "absolute"),
    ] {
        let output = run(arguments, "kind: Namespace\napiVersion: v1\nmetadata: {name: x}\n");
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(
            errors.starts_with("netpolc: ") && errors.contains(part),
            "{arguments:?}: {errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    assert_eq!(run(&["compile"], "").status.code(), Some(2));
    assert_eq!(run(&["--help"], "").status.code(), Some(0));
}

#[test]
fn eval_answers_line_by_line_and_marks_bad_lines() {
    let file = example();
    let probes = "{\"src\":\"172.17.0.9\",\"dst\":\"default/db-0\",\"port\":6379}\nnonsense\n\
                  {\"src\":\"172.17.1.9\",\"dst\":\"default/db-0\",\"port\":6379}\n";
    for judge in ["oracle", "tables", "mem"] {
        let arguments = ["eval", "-f", file.to_str().unwrap(), "--probes", "-", "--judge", judge];
        let output = run(&arguments, probes);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let lines: Vec<Value> =
            text(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["allowed"], true, "{judge}: {}", lines[0]);
        assert_eq!(
            lines[0]["ingress"]["by"][0]["policy"], "default/test-network-policy",
            "{judge}"
        );
        assert!(lines[1]["error"].is_string() && lines[1]["line"] == 2);
        assert_eq!(lines[2]["allowed"], false);
    }
}

/// Every judge that needs no root says the same, in words.
#[test]
fn s90_eval_says_that_a_pod_is_isolated_by_default() {
    let file = example();
    let probe = r#"{"src":"mine/job","dst":"192.0.2.1","proto":"tcp","port":80}"#;
    let ask = |judge: &str, options: &[&str]| -> Value {
        let mut arguments =
            vec!["eval", "-f", file.to_str().unwrap(), "--probes", "-", "--judge", judge];
        arguments.extend(options);
        let output = run(&arguments, probe);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{judge}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for judge in ["oracle", "tables", "mem", "flower"] {
        assert_eq!(ask(judge, &[])["allowed"], true, "{judge}");
        let closed = ask(judge, &["--isolate-by-default", "--isolate-by-default-except", "x,y"]);
        assert_eq!(
            (&closed["allowed"], &closed["egress"]["reason"]),
            (&false.into(), &"denied".into())
        );
        let by = &closed["egress"]["by"][0]["implied"];
        let said = by.as_str().unwrap_or_default();
        assert!(
            said.starts_with("isolated by default: no policy selects the pod"),
            "{judge}: {by}"
        );
        let exempt = ask(judge, &["--isolate-by-default", "--isolate-by-default-except", "x,mine"]);
        assert_eq!(exempt["allowed"], true, "{judge}");
    }
}

/// The tables say where what is only tried differs; filters do not, and that is said.
#[test]
fn s86_compile_says_which_target_compares_with_what_is_only_tried() {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: strict, namespace: default, annotations: {netpolc.io/mode: audit}}
spec: {podSelector: {}, policyTypes: [Ingress]}
";
    let input = std::fs::read_to_string(example()).unwrap() + "---" + policy;
    for (target, told) in [
        (&[][..], "the table `tried` says where verdicts would differ"),
        (&["--target", "flower"], "no filter compares with it"),
    ] {
        let output = run(&[&["compile", "-f", "-"], target].concat(), &input);
        let said = text(&output.stderr);
        assert!(said.contains("default/strict is only tried and changes no verdict"), "{said}");
        assert!(said.contains(told), "{target:?}: {said}");
        let differs = text(&output.stdout).contains("-> differs  # tried default/strict");
        assert_eq!(differs, target.is_empty());
    }
}

/// A reader that stops early is no reason to complain.
#[test]
fn a_broken_pipe_is_quiet() {
    let mut child = netpolc(&["compile", "-f", example().to_str().unwrap(), "--target", "ebpf"])
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::with_capacity(16, child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn compile_shows_filters_with_their_origin_and_totals() {
    let file = example();
    let file = file.to_str().unwrap();
    let compile =
        |more: &[&str]| run(&[&["compile", "-f", file, "--target", "flower"], more].concat(), "");
    let lines = compile(&[]);
    assert_eq!((lines.status.code(), text(&lines.stderr)), (Some(0), ""));
    let out = text(&lines.stdout);
    assert!(out.starts_with("# mode software, driver software"), "{out}");
    let drop = |l: &&str| {
        l.starts_with("filter dev ")
            && l.contains(" flower skip_hw ")
            && l.contains("action drop  # ")
    };
    assert!(
        out.lines().any(|l| drop(&l) && l.contains("isolates default/test-network-policy")),
        "{out}"
    );
    assert!(out.lines().last().unwrap().starts_with("# total: "), "{out}");
    for (mode, driver) in [("representor", "mlx5_core"), ("prefilter", "mlx5_core")] {
        let output = compile(&["--mode", mode, "-o", "json"]);
        let value: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{mode}: {e}"));
        assert_eq!((&value["mode"], &value["driver"]), (&mode.into(), &driver.into()));
        assert!(
            value["budget"]["filters"]["used"].is_u64()
                && value["totals"]["all"]["filters"].is_u64()
        );
        for filter in
            value["ports"].as_array().unwrap().iter().flat_map(|p| p["filters"].as_array().unwrap())
        {
            assert!(
                ["hardware", "both"].contains(&filter["placement"].as_str().unwrap()),
                "{filter}"
            );
        }
        for left in value["spilled"].as_array().unwrap() {
            assert!(left["explanation"].is_string() && left["origins"].is_array(), "{left}");
        }
    }
    let table = compile(&["-o", "table"]);
    assert!(text(&table.stdout).contains("chains x prios"));
    let wrong = compile(&["--mode", "prefilter", "--driver", "e1000"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        text(&wrong.stderr).contains("known ones are ")
            && text(&wrong.stderr).contains("mlx5_core")
    );
}

/// Demo and bench are programs of their own: beside this one, else on PATH, else an error that says
/// what is missing.
#[test]
fn demo_and_bench_are_found_beside_this_program_or_on_the_path() {
    let folder = std::env::temp_dir().join(format!("netpolc-programs-{}", std::process::id()));
    let other = folder.join("path");
    std::fs::create_dir_all(&other).unwrap();
    let netpolc = folder.join("netpolc");
    std::fs::copy(env!("CARGO_BIN_EXE_netpolc"), &netpolc).unwrap();
    let run = |name: &str| {
        let mut command = Command::new(&netpolc);
        command.args([name, "--help", "x"]).env("PATH", &other).output().unwrap()
    };
    let missing = run("demo");
    let error = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(2), "{error}");
    assert!(error.contains("netpolc-demo") && error.contains("nor on PATH"), "{error}");
    let script = |path: &Path, says: &str| {
        std::fs::write(path, format!("#!/bin/sh\necho {says} \"$@\"\nexit 7\n")).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    script(&other.join("netpolc-demo"), "far");
    script(&other.join("netpolc-bench"), "far");
    script(&folder.join("netpolc-bench"), "near");
    for (name, says) in [("demo", "far --help x\n"), ("bench", "near --help x\n")] {
        let done = run(name);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!((done.status.code(), said.as_str()), (Some(7), says));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
