//! Where commands that answer questions take their objects from: files, manifests without pods, and
//! a cluster; and what they say where there is nothing to answer from.

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
    thread,
};

use common::folder::Folder;
use netpolc_testbed::feed::feed;
use serde_json::Value;

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    feed(&mut command, input.as_bytes()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {app: ui}}}], ports: [{port: web}]}]
";

/// Manifests as they stand in git: no pods, no addresses.
const SHOP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: ui, namespace: shop}
spec: {template: {metadata: {labels: {app: ui}}, spec: {containers: [{name: c}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: api, namespace: shop}
spec:
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{name: http, port: 80, targetPort: web}, {name: x, port: 81}]}
---
";

#[test]
fn an_input_that_nothing_can_be_said_about_is_an_error() {
    let folder = Folder::new("no-input");
    let config = folder.write("config", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n");
    let empty = folder.0.join("empty");
    std::fs::create_dir_all(empty.join("deeper")).unwrap();
    std::fs::write(empty.join("notes.txt"), "x").unwrap();
    let policy = folder.write("policy.yaml", POLICY);
    let typo = folder.0.join("polcy.yaml");
    let (empty, typo) = (empty.to_str().unwrap(), typo.to_str().unwrap());
    for (inputs, part) in [
        (&[typo][..], "polcy.yaml cannot be read: No such file"),
        (&[&policy, typo], "polcy.yaml cannot be read"),
        (&[empty], "is a folder without a *.yaml"),
        (&[&config], "no object that netpolc reads"),
        (&["-"], "no object that netpolc reads"),
    ] {
        for command in [&["compile"][..], &["eval", "--probes", &config]] {
            let arguments = [command, &["-f"], inputs].concat();
            let list = "kind: List\napiVersion: v1\nitems: []\n";
            let output = run(&arguments, list);
            let said = errors(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(said.contains(part), "{arguments:?}: {said}");
            assert_eq!((said.lines().count(), output.stdout.len()), (1, 0), "{said}");
        }
    }
}

#[test]
fn a_node_that_no_object_names_is_an_error() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec: \
               {nodeName: n1}\nstatus: {podIP: 10.0.0.1}\n";
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n";
    let of = |node: &str, input: &str| {
        let output = run(&["compile", "-f", "-", "--node", node], input);
        (output.status.code(), errors(&output))
    };
    let both = [pod, node].concat();
    assert_eq!((of("n1", &both).0, of("n2", &both).0), (Some(0), Some(0)));
    let (code, said) = of("n3", &both);
    assert_eq!(code, Some(2));
    assert!(said.contains("--node n3 is not in the input; it has n1, n2"), "{said}");
    let (code, said) = of("n3", POLICY);
    assert_eq!(code, Some(2));
    assert!(said.contains("it has no Node, and no pod has a nodeName"), "{said}");
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_answered() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec: \
               {nodeName: n1}\nstatus: {podIP: 10.0.0.1}\n";
    let output = run(&["compile", "-f", "-"], &[pod, "---", POLICY].concat());
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    for command in ["kubectl get nodes -o yaml", "kubectl get services -A -o yaml"] {
        let line = said.lines().find(|line| line.contains(command)).expect(command);
        assert!(line.starts_with("netpolc: warning: "), "{line}");
    }
}

/// Every judge that needs no root answers about pods that workloads stand for.
#[test]
fn s48_services_and_workloads_in_git_are_asked_about_by_their_names() {
    let folder = Folder::new("git");
    folder.write("shop.yaml", SHOP);
    folder.write("policy.yaml", POLICY);
    let probes = r#"{"src":"shop/ui","service":"shop/api","port":"http"}
{"src":"shop/ui","dst":"svc/shop/api:x","family":4}
{"src":"shop/ui","dst":"shop/api","port":8080}
{"src":"192.0.2.1","service":"shop/api","port":80}
{"src":"shop/ui","service":"shop/apis"}
"#;
    for judge in ["oracle", "tables", "mem", "flower"] {
        let arguments = ["eval", "-f", folder.path(), "--probes", "-", "--judge", judge];
        let output = run(&arguments, probes);
        assert_eq!(output.status.code(), Some(1), "one is not there: {}", errors(&output));
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let allowed: Vec<&Value> = lines.iter().map(|line| &line["allowed"]).collect();
        let (yes, no) = (Value::Bool(true), Value::Bool(false));
        assert_eq!(allowed, [&yes, &no, &yes, &no, &Value::Null], "{judge}: {text}");
        let backends = lines[0]["backends"].as_array().unwrap();
        assert_eq!(backends.len(), 2, "one for each family: {text}");
        assert_eq!(backends[0]["pod"], "shop/api");
        assert_eq!(
            (&backends[0]["port"], &backends[0]["servicePort"]),
            (&Value::from(8080), &Value::from(80))
        );
        assert_eq!(backends[0]["ingress"]["by"][0]["policy"], "shop/api", "{text}");
        assert_eq!(lines[1]["backends"][0]["ingress"]["reason"], "denied", "{text}");
        assert!(lines[4]["error"].as_str().unwrap().contains("no Service shop/apis"), "{text}");
    }
    // An agent would enforce nothing of this, and neither does what it would make.
    let compiled = run(&["compile", "-f", folder.path(), "-o", "table"], "");
    let text = String::from_utf8_lossy(&compiled.stdout);
    assert!(!text.contains("endpoint") && !text.contains("pod shop/"), "{text}");
    assert!(errors(&compiled).contains("policies but no pods"), "{}", errors(&compiled));
}

/// Serves these lists, by their paths, as an API server without TLS; every other path is unknown.
fn serve(lists: Vec<(&'static str, Value)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lists = lists.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(path) = request(&mut reader) {
                    let found = lists.iter().find(|(known, _)| *known == path);
                    let (status, body) = match found {
                        Some((_, items)) => {
                            let list = serde_json::json!({"kind": "List", "apiVersion": "v1",
                                "metadata": {"resourceVersion": "1"}, "items": items});
                            ("200 OK", list)
                        }
                        None => (
                            "404 Not Found",
                            serde_json::json!({"kind": "Status", "apiVersion": "v1", "code": 404,
                                "status": "Failure", "message": "no such kind", "metadata": {}}),
                        ),
                    };
                    let body = body.to_string();
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: \
                         {}\r\n\r\n",
                        body.len()
                    );
                    if stream.write_all((head + &body).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

/// The path of the next request; None where there is none.
fn request(reader: &mut impl BufRead) -> Option<String> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|length| *length > 0)?;
    let mut line = first.clone();
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line).ok()?;
    }
    Some(first.split(' ').nth(1)?.split('?').next()?.to_owned())
}

fn json(yaml: &str) -> Value {
    // The objects here are JSON already.
    serde_json::from_str(yaml).unwrap()
}

#[test]
fn a_cluster_is_asked_about_through_a_kubeconfig() {
    let labels = r#"{"name":"api-0","namespace":"shop","labels":{"app":"api"}}"#;
    let pod = json(&format!(
        r#"{{"metadata":{labels},"spec":{{"nodeName":"n1","containers":[{{"name":"c","ports":
        [{{"name":"web","containerPort":8080}}]}}]}},"status":{{"podIP":"10.0.0.1"}}}}"#
    ));
    let policy = json(
        r#"{"metadata":{"name":"api","namespace":"shop"},"spec":{"podSelector":{"matchLabels":
        {"app":"api"}},"ingress":[{"form":[]}]}}"#,
    );
    let service = json(
        r#"{"metadata":{"name":"api","namespace":"shop"},"spec":{"clusterIP":"10.96.0.1",
        "selector":{"app":"api"},"ports":[{"port":80,"targetPort":"web"}]}}"#,
    );
    let named = |name: &str| json(&format!(r#"{{"metadata":{{"name":"{name}"}}}}"#));
    let empty = || Value::Array(vec![]);
    let url = serve(vec![
        ("/api/v1/namespaces", vec![named("shop")].into()),
        ("/api/v1/nodes", vec![named("n1")].into()),
        ("/api/v1/services", vec![service].into()),
        ("/apis/discovery.k8s.io/v1/endpointslices", empty()),
        ("/apis/networking.k8s.io/v1/networkpolicies", vec![policy].into()),
        ("/api/v1/pods", vec![pod].into()),
        ("/api/v1/serviceaccounts", empty()),
    ]);
    let folder = Folder::new("kubeconfig");
    let config = folder.write(
        "config",
        &format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: other\nclusters: [{{name: c, cluster: \
             {{server: '{url}'}}}}, {{name: none, cluster: {{server: 'http://127.0.0.1:1'}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: shop, context: \
             {{cluster: c, user: u}}}}, {{name: other, context: {{cluster: none, user: u}}}}]\n"
        ),
    );
    let probe = r#"{"src":"192.0.2.1","dst":"svc/shop/api:80"}"#;
    let way = ["--kubeconfig", &config, "--context", "shop"];
    let output = run(&[&["eval", "--probes", "-"][..], &way].concat(), probe);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "the policy has a mistake: {said}");
    assert!(
        said.starts_with("netpolc: kubernetes: NetworkPolicy shop/api: spec.ingress[0].form:"),
        "{said}"
    );
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["backends"][0]["port"], 8080);
    let compiled = run(&[&["compile", "--node", "n1"][..], &way].concat(), "");
    assert!(String::from_utf8_lossy(&compiled.stdout).contains("# pod shop/api-0"));
    for (context, part) in [
        ("other", "the cluster cannot be read: namespaces cannot be listed: "),
        ("none", "the cluster cannot be read: the kubeconfig "),
    ] {
        let way = ["compile", "--kubeconfig", &config, "--context", context];
        let output = run(&way, "");
        let said = errors(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(part), "{said}");
    }
}
