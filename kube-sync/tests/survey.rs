//! What is gathered for whoever asks questions: pods that workloads stand for, what is behind
//! Services, and whom pods belong to. None of it is in what an agent reads.

use netpolc_kube_sync::{Absent, Input, MadeUp, Severity, Survey, load, survey};
use netpolc_policy::{
    ObjectKey, Pod, PodNetwork,
    frontend::{PortChoice, backends},
};

fn made_up(text: &str) -> Survey {
    survey([Input::bytes("f", text)], Absent::MadeUp)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn template(app: &str) -> String {
    format!(
        "{{metadata: {{labels: {{app: {app}}}}}, spec: {{serviceAccountName: robot, containers: \
         [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}}}"
    )
}

fn workload(kind: &str, name: &str) -> String {
    let (version, spec) = match kind {
        "CronJob" => {
            ("batch/v1", format!("{{jobTemplate: {{spec: {{template: {}}}}}}}", template(name)))
        }
        "Job" => ("batch/v1", format!("{{template: {}}}", template(name))),
        "ReplicationController" => ("v1", format!("{{template: {}}}", template(name))),
        _ => ("apps/v1", format!("{{template: {}}}", template(name))),
    };
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {spec}\n"
    )
}

const KINDS: [&str; 7] = [
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "ReplicationController",
    "Job",
    "CronJob",
];

fn owner(pod: &Pod) -> String {
    pod.owner.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn a_pod_stands_for_each_workload() {
    for kind in KINDS {
        let text = workload(kind, "web");
        let found = made_up(&text);
        assert_eq!(found.loaded.problems, [], "{kind}");
        let pod = &found.loaded.cluster.pods[&key("web")];
        assert_eq!(owner(pod), format!("{kind} web"));
        assert_eq!(pod.labels.get("app"), Some("web"));
        assert_eq!(pod.ports[0].number, 8080);
        assert_eq!(&*pod.grouping.account, "robot");
        assert!(pod.is_policed() && pod.addresses.len() == 2, "{pod:?}");
        assert_eq!(found.made_up, [(key("web"), MadeUp::Pod)].into());
        let namespace = &found.loaded.cluster.namespaces["shop"];
        assert_eq!(namespace.labels.get("kubernetes.io/metadata.name"), Some("shop"));
        let job = pod.labels.get("batch.kubernetes.io/job-name");
        assert_eq!(job.is_some(), kind == "Job");
        // JSON, alone and in a list of its kind, says the same.
        let json = format!(
            r#"{{"apiVersion":"{}","kind":"DeploymentList","items":[{{"metadata":{{"name":"web",
            "namespace":"shop"}},"spec":{{"template":{{"metadata":{{"labels":{{"app":"web"}}}},
            "spec":{{"serviceAccountName":"robot","containers":[{{"ports":[{{"name":"http",
            "containerPort":8080}}]}}]}}}}}}}}]}}"#,
            "apps/v1"
        );
        if kind == "Deployment" {
            assert_eq!(made_up(&json).loaded.cluster, found.loaded.cluster);
        }
        let enforced = load([Input::bytes("f", text.clone()), Input::bytes("g", json)]);
        assert!(enforced.cluster.pods.is_empty() && enforced.problems.is_empty(), "{kind}");
        let given = survey([Input::bytes("f", text)], Absent::Absent);
        assert!(given.loaded.cluster.pods.is_empty() && given.made_up.is_empty());
    }
}

#[test]
fn workloads_of_one_name_have_pods_of_different_names() {
    let text = KINDS.map(|kind| workload(kind, "web")).concat();
    let found = made_up(&text);
    assert_eq!(found.loaded.problems, []);
    let pods = found.loaded.cluster.pods.values();
    let names: Vec<String> = pods.map(|pod| format!("{} {}", pod.key.name, owner(pod))).collect();
    assert_eq!(names.len(), 7);
    assert!(names.contains(&"web Deployment web".to_owned()), "{names:?}");
    assert!(names.contains(&"web.statefulset StatefulSet web".to_owned()), "{names:?}");
}

fn pod(name: &str, owner: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: \
         {labels}, ownerReferences: [{owner}]}}\nstatus: {{podIP: 10.0.0.{}}}\n",
        name.len()
    )
}

#[test]
fn real_pods_are_those_of_their_workload_and_nothing_is_made_up_beside_them() {
    let set = "{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d8f, controller: true}";
    let job = "{apiVersion: batch/v1, kind: Job, name: clean-29345678, controller: true}";
    let text = [
        pod("web-5d8f-x", set, "{app: web, pod-template-hash: 5d8f}"),
        pod("clean-29345678-x", job, "{}"),
    ]
    .concat();
    let owners = |text: &str| -> Vec<String> {
        made_up(text).loaded.cluster.pods.values().map(owner).collect()
    };
    assert_eq!(owners(&text), ["Job clean-29345678", "Deployment web"]);
    let whole = [&text, &*workload("Deployment", "web"), &workload("CronJob", "clean")].concat();
    assert_eq!(owners(&whole), ["CronJob clean", "Deployment web"]);
    assert!(made_up(&whole).made_up.is_empty());
    // What the agent reads of a pod is the same.
    let enforced = load([Input::bytes("f", text)]);
    assert_eq!(owner(&enforced.cluster.pods[&key("web-5d8f-x")]), "Deployment web");
}

#[test]
fn a_replica_set_is_its_owners_by_what_it_says_itself() {
    let of = "{apiVersion: apps/v1, kind: ReplicaSet, name: web-odd, controller: true}";
    let set = |name: &str, replicas: u32| {
        let owner = "ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, \
                     controller: true}]";
        let text = workload("ReplicaSet", name);
        let text = text.replace("namespace: shop}", &format!("namespace: shop, {owner}}}"));
        text.replace("spec: {template", &format!("spec: {{replicas: {replicas}, template"))
    };
    let text = [&set("web-odd", 1), &*pod("web-odd-x", of, "{}")].concat();
    let found = made_up(&text);
    assert_eq!(owner(&found.loaded.cluster.pods[&key("web-odd-x")]), "Deployment web");
    assert!(found.made_up.is_empty());
    // Where there is no pod, the ReplicaSet that is in use stands for the Deployment.
    let found = made_up(&[set("web-a", 0), set("web-b", 3), set("web-c", 0)].concat());
    let pod = &found.loaded.cluster.pods[&key("web")];
    assert_eq!((pod.labels.get("app"), found.made_up.len()), (Some("web-b"), 1));
    // Another kind may own several workloads, which stay apart.
    let owned = |name: &str| {
        let owner = "ownerReferences: [{apiVersion: example.com/v1, kind: Shop, name: all, \
                     controller: true}]";
        let text = workload("Deployment", name);
        text.replace("namespace: shop}", &format!("namespace: shop, {owner}}}"))
    };
    assert_eq!(made_up(&[owned("ui"), owned("db")].concat()).made_up.len(), 2);
    let whole = [set("web-b", 3), workload("Deployment", "web")].concat();
    let found = made_up(&whole);
    assert_eq!(found.loaded.cluster.pods[&key("web")].labels.get("app"), Some("web"));
}

#[test]
fn s15_a_daemon_set_has_a_pod_on_each_node() {
    let node = |name: &str, ip: &str| {
        format!(
            "---\nkind: Node\napiVersion: v1\nmetadata: {{name: {name}}}\nstatus: {{addresses: \
             [{{type: InternalIP, address: {ip}}}]}}\n"
        )
    };
    let nodes = [node("n1", "192.0.2.1"), node("n2", "192.0.2.2")].concat();
    let found = made_up(&[&*nodes, &workload("DaemonSet", "log")].concat());
    let pod = &found.loaded.cluster.pods[&key("log-n2")];
    assert_eq!((pod.node.as_deref(), found.made_up.len()), (Some("n2"), 2));
    let host =
        workload("DaemonSet", "log").replace("containers:", "hostNetwork: true, containers:");
    let cluster = made_up(&[&*nodes, &host].concat()).loaded.cluster;
    let pod = &cluster.pods[&key("log-n2")];
    assert_eq!(pod.network, PodNetwork::Host);
    assert_eq!(cluster.addresses(pod), &["192.0.2.2".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn a_template_that_cannot_be_understood_is_named_with_its_field() {
    let text = workload("Deployment", "web");
    let cron = workload("CronJob", "web");
    for (text, field) in [
        (text.replace("template:", "tmpl:"), "spec.template"),
        (
            text.replace("containerPort: 8080", "containerPort: x"),
            "spec.template.spec.containers[0].ports[0].containerPort",
        ),
        (text.replace("labels: {app: web}", "labels: []"), "spec.template.metadata.labels"),
        (text.replace("spec: {serviceAccountName", "sepc: {x"), "spec.template.spec"),
        (cron.replace("{spec: {template", "{spec: {x"), "spec.jobTemplate.spec.template"),
        (cron.replace("jobTemplate: ", "x: "), "spec.jobTemplate"),
        (text.replace("apps/v1", "apps/v2"), "apiVersion"),
        (text.replace("apiVersion: apps/v1\n", ""), "apiVersion"),
        (text.replace("Deployment", "Deploymnet"), "kind"),
    ] {
        let found = made_up(&text).loaded;
        let errors = found.problems.iter().filter(|p| p.severity == Severity::Error);
        let named: Vec<&str> = errors.filter_map(|p| p.field.as_deref()).collect();
        assert_eq!(named, [field], "{text} {:?}", found.problems);
        assert_eq!((&*found.problems[0].file, found.problems[0].line.is_some()), ("f", true));
    }
    let former = made_up(&text.replace("apps/v1", "extensions/v1beta1")).loaded;
    assert_eq!((former.problems.len(), former.cluster.pods.len()), (1, 1));
    assert!(made_up(&text.replace("apps/v1", "example.com/v1")).loaded.cluster.pods.is_empty());
    let twice = made_up(&[&*text, &text.replace("8080", "8081")].concat()).loaded;
    assert!(twice.problems[0].message.contains("contradicts the one at f:2"), "{twice:?}");
    assert_eq!(made_up(&text.repeat(2)).loaded.problems[0].severity, Severity::Warning);
}

#[test]
fn a_pod_without_addresses_gets_some_and_the_others_keep_theirs() {
    let bare = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n";
    let found = made_up(&[bare, &pod("b", "", "{}")].concat());
    let addresses = |name: &str| found.loaded.cluster.pods[&key(name)].addresses.clone();
    assert_eq!(addresses("a").len(), 2);
    assert_eq!(addresses("b"), ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(found.made_up, [(key("a"), MadeUp::Addresses)].into());
    let given = load([Input::bytes("f", bare)]);
    assert!(given.cluster.pods[&key("a")].addresses.is_empty());
}

#[test]
fn objects_say_what_lint_need_not_report_of_them() {
    let annotation = r#"annotations: {"netpolc.io/lint-allow": "no-rules, dns-denied,"}"#;
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop, \
         {annotation}}}\nspec: {{podSelector: {{}}}}\n"
    );
    let yaml = format!(
        "{policy}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, {annotation}}}\n"
    );
    let json = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"data","annotations":
        {"netpolc.io/lint-allow":"dns-denied"}}}"#;
    let found = survey([Input::bytes("y", yaml), Input::bytes("j", json)], Absent::Absent);
    assert_eq!(found.loaded.problems, []);
    let allowed: Vec<String> =
        found.lint_allow.iter().map(|(id, ids)| format!("{id}: {}", ids.join(" "))).collect();
    assert_eq!(
        allowed,
        [
            "Namespace data: dns-denied",
            "Namespace shop: no-rules dns-denied",
            "NetworkPolicy shop/p: no-rules dns-denied"
        ]
    );
}

#[test]
fn a_made_up_address_is_in_no_block() {
    let text = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, \
                namespace: shop}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: \
                10.0.0.0/8}}, {ipBlock: {cidr: 'fd00::/8'}}]}]}\n";
    let found = made_up(&[&*workload("Deployment", "web"), text].concat());
    let pod = &found.loaded.cluster.pods[&key("web")];
    let shown: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["172.31.0.1", "fc00:6574:706f:6c63::1"]);
    assert_eq!(found.loaded.problems, []);
}

#[test]
fn what_is_behind_a_service_follows_from_manifests_and_from_slices() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n\
                   spec: {selector: {app: api}, ports: [{name: http, port: 80, targetPort: http}, \
                   {name: raw, port: 81}]}\n";
    let text = [&*workload("Deployment", "api"), service].concat();
    type Ends = Result<Vec<(Option<ObjectKey>, u16)>, String>;
    let ends = |text: &str, port: &str| -> Ends {
        let found = made_up(text);
        assert_eq!(found.loaded.problems, []);
        let choice = PortChoice::named(port);
        let ends = backends(&found.loaded.cluster, &found.frontends, &key("api"), &choice);
        let ends = ends.map_err(|error| error.to_string())?;
        Ok(ends.iter().map(|end| (end.pod.clone(), end.port)).collect())
    };
    assert_eq!(ends(&text, "http"), Ok(vec![(Some(key("api")), 8080); 2]), "both families");
    assert_eq!(ends(&text, "raw").unwrap()[0].1, 81);
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: \
                 api-x, namespace: shop, labels: {kubernetes.io/service-name: api}}\naddressType: \
                 IPv4\nports: [{name: http, port: 8443, protocol: TCP}]\nendpoints: [{addresses: \
                 [192.0.2.9]}, {addresses: [192.0.2.10], targetRef: {kind: Pod, name: api}}]\n";
    let text = [&*text, slice].concat();
    assert_eq!(ends(&text, "http"), Ok(vec![(None, 8443), (Some(key("api")), 8443)]));
    assert!(ends(&text, "raw").unwrap_err().contains("container port"));
    assert_eq!(load([Input::bytes("f", text)]).problems, [], "slices mean nothing to an agent");
    let headless = service.replace("spec: {", "spec: {clusterIP: None, ");
    let text = [&*workload("Deployment", "api"), &headless].concat();
    assert_eq!(ends(&text, "http").unwrap()[0].1, 80, "nothing translates its ports");
}

#[test]
fn a_selector_that_is_broken_selects_nothing() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n\
                   spec: {selector: {app: [api], tier: x}, ports: [{port: 80, targetPort: {}}]}\n";
    let found = made_up(service);
    let fields: Vec<_> = found.loaded.problems.iter().filter_map(|p| p.field.clone()).collect();
    assert_eq!(fields, ["spec.selector.app", "spec.ports[0].targetPort"]);
    let frontend = &found.frontends[&key("api")];
    assert_eq!((&frontend.selector, frontend.ports.len()), (&None, 0));
}
