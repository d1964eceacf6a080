//! The manifests without a cluster: chart and kustomize base give the same objects, and the chart's
//! options do what they say. Dashboard and alerts: `monitoring.rs`. What an API server and a node
//! make of the manifests: `kube_node.rs`.
//!
//! Needs kubectl and a renderer of charts, which testbed/kube builds from Debian's packages once.

#[path = "common/chart.rs"]
mod rendered;

use std::{fs, path::PathBuf, process::Command};

use netpolc_kube_sync::watch::Foreign;
use rendered::{chart, find, objects, root, run, tool};
use serde_json::Value;

fn kustomize(folder: &str) -> Vec<Value> {
    let folder_of_programs = String::from_utf8(run(&mut tool("kubernetes.sh"), b"")).unwrap();
    let kubectl = PathBuf::from(folder_of_programs.trim()).join("kubectl");
    let folder = root().join("runtime/deploy/kustomize").join(folder);
    objects(&run(Command::new(kubectl).arg("kustomize").arg(folder), b""))
}

fn pod(objects: &[Value]) -> &Value {
    &find(objects, "DaemonSet")["spec"]["template"]["spec"]
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .map(|l| l.iter().map(|c| c["name"].as_str().unwrap()).collect())
        .unwrap_or_default()
}

#[test]
fn chart_and_base_give_the_same_objects() {
    assert_eq!(chart(&[]), kustomize("base"));
    let remove: Vec<Value> =
        chart(&["-set", "remove=true"]).into_iter().filter(|o| o["kind"] == "DaemonSet").collect();
    assert_eq!(remove, kustomize("remove"));
    let newer = chart(&["-k", "v1.30.0"]).into_iter();
    let admission: Vec<Value> = newer
        .filter(|o| o["kind"].as_str().unwrap().starts_with("ValidatingAdmissionPolicy"))
        .collect();
    assert_eq!(admission, kustomize("admission"));
    assert_eq!(admission.len(), 2);
}

/// Only what asks the API server has a token, and only what writes plugins may.
#[test]
fn tokens_and_folders_are_where_they_are_needed() {
    for objects in [chart(&[]), chart(&["-set", "remove=true"])] {
        let pod = pod(&objects);
        assert_eq!(pod["automountServiceAccountToken"], false);
        let mounts = |volume: &str| {
            let all = ["initContainers", "containers"]
                .iter()
                .flat_map(|list| pod[list].as_array().unwrap());
            let has = |c: &&Value| names(&c["volumeMounts"]).contains(&volume);
            all.filter(has).map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert!(matches!(&*mounts("token").concat(), "agent" | ""), "{:?}", mounts("token"));
        assert!(
            matches!(&*mounts("cni-bin").concat(), "install-cni" | "remove-cni"),
            "{:?}",
            mounts("cni-bin")
        );
    }
}

/// From 1.30 on the API server binds each agent to its node; the right to patch Nodes is there for
/// the startup taint alone.
#[test]
fn agents_are_bound_to_their_nodes() {
    assert!(chart(&["-k", "v1.29.5"]).iter().all(|o| o["kind"] != "ValidatingAdmissionPolicy"));
    let newer = chart(&["-k", "v1.30.0"]);
    let policy = find(&newer, "ValidatingAdmissionPolicy");
    let condition = policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap();
    assert_eq!(
        condition,
        r#"request.userInfo.username == "system:serviceaccount:kube-system:netpolc""#
    );
    assert!(
        policy["spec"]["variables"].to_string().contains("authentication.kubernetes.io/node-name")
    );
    assert_eq!(
        find(&newer, "ValidatingAdmissionPolicyBinding")["spec"]["policyName"],
        policy["metadata"]["name"]
    );

    let patches = |objects: &[Value]| {
        let rules = find(objects, "ClusterRole")["rules"].as_array().unwrap().clone();
        rules
            .iter()
            .any(|r| r["resources"][0] == "nodes" && r["verbs"].to_string().contains("patch"))
    };
    let tainted = chart(&["-k", "v1.30.0", "-set", "startupTaint.enabled=true"]);
    assert!(patches(&tainted) && !patches(&newer));
    let arguments = pod(&tainted)["containers"][0]["args"].as_array().unwrap();
    assert!(
        arguments.contains(&"--startup-taint=netpolc.io/agent-not-ready".into()),
        "{arguments:?}"
    );
    let bindings =
        tainted.iter().filter(|o| o["kind"] == "ValidatingAdmissionPolicyBinding").count();
    assert_eq!(bindings, 2, "one for statuses, one for nodes");
}

/// Hubble's API is nowhere until it is asked for, and on the network only with certificates.
#[test]
fn hubbles_api_is_served_where_it_is_asked_for() {
    let of = |arguments: &[&str]| {
        let objects = chart(arguments);
        let agent = &pod(&objects)["containers"][0];
        let all = agent["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap());
        let all = all.filter(|a| a.starts_with("--hubble")).map(str::to_owned);
        let service = objects.iter().find(|o| o["kind"] == "Service").cloned();
        let volumes = pod(&objects)["volumes"].as_array().unwrap();
        let secret = volumes.iter().find(|volume| volume["name"] == "hubble-tls").cloned();
        let mounted = names(&agent["volumeMounts"]).contains(&"hubble-tls");
        assert_eq!(mounted, secret.is_some());
        (all.collect::<Vec<_>>(), service, secret)
    };
    assert_eq!(of(&[]), (vec![], None, None));
    assert_eq!(of(&["-set", "hubble.listen.enabled=true"]), (vec![], None, None));
    let (arguments, service, secret) = of(&["-set", "hubble.enabled=true"]);
    let socket = ["--hubble-socket=/run/netpolc/hubble.sock", "--hubble-cluster=default"];
    assert_eq!((&arguments[..], service, secret), (&socket.map(str::to_owned)[..], None, None));
    let (arguments, service, secret) = of(&[
        "-set",
        "hubble.enabled=true",
        "-set",
        "hubble.listen.enabled=true",
        "-set",
        "hubble.listen.address=fd00::1",
        "-set",
        "hubble.listen.port=4245",
        "-set",
        "hubble.listen.tlsSecret=certs",
    ]);
    assert_eq!(
        arguments[2..],
        [
            "--hubble-listen=[fd00::1]:4245",
            "--hubble-tls-cert=/etc/netpolc/hubble/tls.crt",
            "--hubble-tls-key=/etc/netpolc/hubble/tls.key",
            "--hubble-tls-client-ca=/etc/netpolc/hubble/ca.crt",
        ]
    );
    let (service, secret) = (service.unwrap(), secret.unwrap());
    assert_eq!(service["metadata"]["name"], "hubble-peer");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 4245);
    assert_eq!(service["spec"]["internalTrafficPolicy"], "Local");
    // A pod starts, and enforces, without the Secret.
    assert_eq!(
        (&secret["secret"]["secretName"], &secret["secret"]["optional"]),
        (&"certs".into(), &true.into())
    );
}

/// The schema knows every value that the chart has, and no other; what it says of a type is true of
/// the default.
#[test]
fn the_schema_knows_the_values() {
    let folder = root().join("runtime/deploy/helm/netpolc");
    let schema: Value =
        serde_json::from_slice(&fs::read(folder.join("values.schema.json")).unwrap()).unwrap();
    let values =
        run(tool("render.sh").arg("-json"), &fs::read(folder.join("values.yaml")).unwrap());
    let values: Value = serde_json::from_slice(&values).unwrap();
    fn compare(path: &str, schema: &Value, value: &Value) {
        let kind = match value {
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            _ => "string",
        };
        let said = |schema: &Value| schema.get("type").is_none_or(|t| t == kind);
        let any = schema["anyOf"].as_array().is_none_or(|any| any.iter().any(said));
        assert!(said(schema) && any, "{path}: {value} against {schema}");
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(allowed.contains(value), "{path}: {value}");
        }
        let Some(properties) = schema["properties"].as_object() else { return };
        assert_eq!(
            schema["additionalProperties"], false,
            "{path}: a misspelt value must be an error"
        );
        for (key, value) in value.as_object().unwrap() {
            let inner =
                properties.get(key).unwrap_or_else(|| panic!("the schema has no {path}.{key}"));
            compare(&format!("{path}.{key}"), inner, value);
        }
    }
    compare("values", &schema, &values[0]);
    // What the schema has beside: what Helm itself and Kubernetes know.
    for key in schema["properties"].as_object().unwrap().keys() {
        assert!(values[0].get(key).is_some() || key == "global", "the chart has no value {key}");
    }
}

#[test]
fn no_container_is_privileged_and_only_what_is_needed_is_granted() {
    for objects in [chart(&[]), chart(&["-set", "remove=true"])] {
        let pod = pod(&objects);
        let both = ["initContainers", "containers"];
        for container in both.iter().flat_map(|list| pod[list].as_array().unwrap()) {
            let context = &container["securityContext"];
            assert_eq!(context["privileged"], Value::Null, "{container}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
        }
        assert_eq!((&pod["hostPID"], &pod["hostIPC"]), (&Value::Null, &Value::Null));
        for rule in find(&objects, "ClusterRole")["rules"].as_array().unwrap() {
            let verbs: Vec<&str> =
                rule["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
            let writes = match rule["resources"][0].as_str() {
                Some("events" | "nodepolicystatuses") => verbs == ["create"],
                Some("nodepolicystatuses/status" | "clusternetworkpolicies/status") => {
                    verbs == ["patch"]
                }
                _ => false,
            };
            let counts = || verbs == ["list"] && is_about_foreign(rule);
            assert!(writes || counts() || verbs == ["get", "list", "watch"], "{rule}");
        }
    }
}

/// Whether a rule of RBAC is about nothing but policies that other engines enforce.
fn is_about_foreign(rule: &Value) -> bool {
    let names = |field: &str| rule[field].as_array().unwrap().clone();
    names("apiGroups").iter().all(|group| {
        names("resources")
            .iter()
            .all(|plural| Foreign::kinds().any(|kind| *group == kind.0 && *plural == kind.1))
    })
}

/// What is counted in the cluster may be counted, and no more than that.
#[test]
fn policies_of_other_engines_may_be_listed() {
    let objects = chart(&[]);
    let rules = find(&objects, "ClusterRole")["rules"].as_array().unwrap();
    for (group, plural) in Foreign::kinds() {
        let has = |rule: &Value, field: &str, name: &str| {
            rule[field].to_string().contains(&format!("\"{name}\""))
        };
        let mut granting = rules
            .iter()
            .filter(|rule| has(rule, "apiGroups", group) && has(rule, "resources", plural));
        let verbs = granting.next().map(|rule| rule["verbs"].to_string());
        assert_eq!(verbs.as_deref(), Some(r#"["list"]"#), "{plural}.{group}");
    }
}

/// What is watched and what may be read go together.
#[test]
fn kinds_that_are_watched_are_those_that_may_be_read() {
    let kinds = [
        ("clusterNetworkPolicies", "cluster-network-policies", "clusternetworkpolicies"),
        ("securityGroups", "security-groups", "securitygrouppolicies"),
        ("staged", "staged-policies", "stagedkubernetesnetworkpolicies"),
    ];
    for chosen in 0..8 {
        let is_on = |index: usize| chosen & (1 << index) != 0;
        let values: Vec<String> = kinds
            .iter()
            .enumerate()
            .map(|(index, (value, ..))| format!("policies.{value}={}", is_on(index)))
            .collect();
        let arguments: Vec<&str> = values.iter().flat_map(|value| ["-set", value]).collect();
        let objects = chart(&arguments);
        let rules = find(&objects, "ClusterRole")["rules"].as_array().unwrap().clone();
        let rules: Vec<&Value> = rules.iter().filter(|rule| !is_about_foreign(rule)).collect();
        let rules = serde_json::to_string(&rules).unwrap();
        let on: Vec<&str> = (0..3).filter(|i| is_on(*i)).map(|i| kinds[i].1).collect();
        let on = if on.is_empty() { "none".to_owned() } else { on.join(",") };
        let arguments = pod(&objects)["containers"][0]["args"].as_array().unwrap();
        assert!(arguments.contains(&format!("--also-watch={on}").into()), "{arguments:?}");
        for (index, (_, _, resource)) in kinds.iter().enumerate() {
            assert_eq!(rules.contains(resource), is_on(index), "{resource}: {rules}");
        }
        assert_eq!(rules.contains("serviceaccounts"), is_on(1), "{rules}");
        assert_eq!(rules.contains("clusternetworkpolicies/status"), is_on(0), "{rules}");
    }
}

/// S91: off by default; and where it is on, the namespace of the cluster's DNS is exempt.
#[test]
fn s91_the_chart_tells_the_agent_what_is_isolated_by_default() {
    let arguments = |set: &[&str]| {
        let set: Vec<String> =
            set.iter().map(|value| format!("policies.isolateByDefault.{value}")).collect();
        let set: Vec<&str> = set.iter().flat_map(|value| ["-set", value]).collect();
        let objects = chart(&set);
        let all = pod(&objects)["containers"][0]["args"].as_array().unwrap().clone();
        let all = all.into_iter().map(|argument| argument.as_str().unwrap().to_owned());
        all.filter(|argument| argument.contains("by-default")).collect::<Vec<String>>()
    };
    let except = "--isolate-by-default-except=";
    assert_eq!(arguments(&[]), [] as [String; 0]);
    assert_eq!(
        arguments(&["enabled=true"]),
        ["--isolate-by-default".to_owned(), format!("{except}kube-system")]
    );
    assert_eq!(arguments(&["enabled=true", "except=[a, b]"])[1], format!("{except}a,b"));
    assert_eq!(arguments(&["enabled=true", "except=[]"])[1], except);
}

#[test]
fn s82_the_chart_tells_the_agent_which_packets_groups_judge() {
    for (mode, expected) in [("strict", None), ("standard", Some("--security-groups=standard"))] {
        let objects = chart(&["-set", &format!("policies.securityGroupEnforcement={mode}")]);
        let arguments = pod(&objects)["containers"][0]["args"].as_array().unwrap().clone();
        let mut arguments = arguments.iter().map(|argument| argument.as_str().unwrap());
        assert_eq!(arguments.find(|a| a.starts_with("--security-groups")), expected, "{mode}");
    }
}

#[test]
fn options_of_the_chart_do_what_they_say() {
    let objects = chart(&["-set", "cni.enabled=false", "-set", "mountBpffs=false"]);
    assert_eq!(names(&pod(&objects)["initContainers"]), Vec::<&str>::new());
    assert_eq!(names(&pod(&objects)["containers"]), ["agent"]);
    assert_eq!(names(&pod(&objects)["volumes"]), ["token", "netns", "bpffs", "run"]);
    assert!(!pod(&objects)["containers"][0]["args"].to_string().contains("--cni-socket"));
    assert!(pod(&chart(&[]))["containers"][0]["args"].to_string().contains("--cni-socket"));
    // A reboot finds every namespace closed but those that are named.
    let defaults = chart(&[]);
    let config = &find(&defaults, "ConfigMap")["data"];
    assert_eq!(
        (&config["CNI_FAIL"], &config["CNI_EXEMPT_NAMESPACES"]),
        (&"closed".into(), &"kube-system".into())
    );

    for (seconds, argument) in [("0", "--audit-interval=0"), ("86400", "--audit-interval=86400")] {
        let objects = chart(&["-set", &format!("auditIntervalSeconds={seconds}")]);
        let arguments = pod(&objects)["containers"][0]["args"].to_string();
        assert!(arguments.contains(argument), "{arguments}");
    }

    for (to, argument, volume) in [
        ("none", None, None),
        ("stdout", Some("--flow-log=-"), None),
        ("file", Some("--flow-log=/var/log/netpolc/flows.jsonl"), Some("/logs")),
    ] {
        let set = format!("flowLog.to={to}");
        let objects = chart(&["-set", &set, "-set", "flowLog.hostDir=/logs"]);
        let (pod, agent) = (pod(&objects), &pod(&objects)["containers"][0]);
        let arguments = agent["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap());
        let found = arguments.clone().find(|a| a.starts_with("--flow-log"));
        assert_eq!(found, argument, "{to}");
        let volumes = pod["volumes"].as_array().unwrap();
        let found = volumes.iter().find(|volume| volume["name"] == "flow-log");
        assert_eq!(found.and_then(|v| v["hostPath"]["path"].as_str()), volume, "{to}");
        assert_eq!(names(&agent["volumeMounts"]).contains(&"flow-log"), volume.is_some());
    }

    // Where flows go is said by arguments, and a secret by a variable.
    let exporting = chart(&[
        "-set",
        "otlp.endpoint=http://127.0.0.1:4318",
        "-set",
        "otlp.headersSecret=otlp",
        "-set",
        "denialEvents=true",
        "-set",
        "flowLog.to=stdout",
        "-set",
        "flowLog.format=ocsf",
    ]);
    for (objects, is_there) in [(&exporting, true), (&defaults, false)] {
        let agent = &pod(objects)["containers"][0];
        for argument in
            ["--otlp-endpoint=http://127.0.0.1:4318", "--denial-events", "--flow-log-format=ocsf"]
        {
            let arguments = agent["args"].as_array().unwrap();
            assert_eq!(arguments.contains(&argument.into()), is_there, "{argument}");
        }
        let env = agent["env"].as_array().unwrap();
        let headers = env.iter().find(|e| e["name"] == "OTEL_EXPORTER_OTLP_HEADERS");
        let secret = headers.map(|headers| &headers["valueFrom"]["secretKeyRef"]["name"]);
        assert_eq!(secret, is_there.then_some(&"otlp".into()));
    }

    let objects = chart(&["-set", "metrics.address=0.0.0.0", "-set", "metrics.port=1234"]);
    assert_eq!(find(&objects, "ConfigMap")["data"]["METRICS_ADDRESS"], "0.0.0.0:1234");
    let probe = &pod(&objects)["containers"][0]["readinessProbe"]["httpGet"];
    assert_eq!((&probe["host"], &probe["port"]), (&"127.0.0.1".into(), &1234.into()));
    for (address, listens, probed) in [
        ("'[::1]'", "[::1]:9643", "::1"),
        ("'::1'", "[::1]:9643", "::1"),
        ("'[::]'", "[::]:9643", "127.0.0.1"),
    ] {
        let objects = chart(&["-set", &format!("metrics.address={address}")]);
        assert_eq!(find(&objects, "ConfigMap")["data"]["METRICS_ADDRESS"], listens);
        assert_eq!(pod(&objects)["containers"][0]["livenessProbe"]["httpGet"]["host"], probed);
    }

    let objects = chart(&[
        "-set",
        "image.tag=9",
        "-set",
        "cni.exemptNamespaces=[a, b]",
        "-set",
        "apiServer.host=api.example",
    ]);
    assert_eq!(pod(&objects)["containers"][0]["image"], "ghcr.io/netpolc/netpolc:9");
    let pinned = chart(&["-set", "image.tag=9", "-set", "image.digest=sha256:1f"]);
    assert_eq!(pod(&pinned)["containers"][0]["image"], "ghcr.io/netpolc/netpolc@sha256:1f");
    assert_eq!(find(&objects, "ConfigMap")["data"]["CNI_EXEMPT_NAMESPACES"], "a,b");
    let env = pod(&objects)["containers"][0]["env"].as_array().unwrap();
    assert!(
        env.iter().any(|e| e["name"] == "KUBERNETES_SERVICE_HOST" && e["value"] == "api.example"),
        "{env:?}"
    );

    // From 1.30 on a field says what annotations said before.
    let new = chart(&["-k", "v1.30.0"]);
    assert_eq!(pod(&new)["securityContext"]["appArmorProfile"]["type"], "Unconfined");
    let annotations = &find(&new, "DaemonSet")["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations.as_object().map(|a| a.len()), Some(0));
}
