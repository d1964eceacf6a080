//! How fast lists are decoded, on one thread, and what the cluster then holds: `cargo bench -p
//! netpolc-kube-sync`. Exits 1 where JSON is slower than 100 MB/s or 100,000 pods hold more than
//! 200 MiB.

use std::{fmt::Write, process::ExitCode, sync::LazyLock, time::Instant};

use netpolc_kube_sync::{Input, Loaded, load};

const PODS: usize = 100_000;

fn main() -> ExitCode {
    let mut failed = false;
    // The full ones come first: what they free is reused, so that the lean ones' memory is not.
    for (name, text, floor) in [
        ("JSON, full pods", list(PODS, full_pod), 100.0),
        ("JSON, lean pods", list(PODS, lean_pod), 100.0),
        ("JSON, policies", list(10_000, policy), 0.0),
        ("YAML, lean pods", yaml(20_000), 0.0),
    ] {
        let megabytes = text.len() as f64 / 1e6;
        let mut best = f64::INFINITY;
        let mut held = 0.0_f64;
        for _ in 0..3 {
            let input = Input::bytes("bench", text.clone());
            let before = resident_mib();
            let start = seconds_on_cpu();
            let loaded = load([input]);
            best = best.min(seconds_on_cpu() - start);
            // Later rounds reuse what the allocator kept of the first.
            held = held.max(resident_mib() + megabytes * 1e6 / f64::from(1 << 20) - before);
            check(&loaded);
        }
        let speed = megabytes / best;
        println!(
            "{name:16} {megabytes:7.1} MB  {speed:6.0} MB/s  {best:6.3} s  cluster about \
             {held:4.0} MiB"
        );
        failed |= speed < floor || held > 200.0;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn check(loaded: &Loaded) {
    assert!(loaded.problems.is_empty(), "{}", loaded.problems[0]);
    assert!(loaded.cluster.pods.len() + loaded.cluster.policies.len() >= 10_000);
}

/// What this thread has used so far, so that a busy machine does not change the answer
/// (/proc/thread-self/schedstat, nanoseconds; the clock where the kernel keeps none).
fn seconds_on_cpu() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let clock = START.elapsed().as_secs_f64();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|n| n.parse::<f64>().ok())
        .map_or(clock, |nanoseconds| nanoseconds / 1e9)
}

/// Resident memory now, from /proc/self/statm, for pages of 4 KiB.
fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / f64::from(1 << 20)
}

fn list(count: usize, item: fn(usize) -> String) -> String {
    let mut text = String::from(r#"{"apiVersion":"v1","items":["#);
    for i in 0..count {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&item(i));
    }
    text.push_str(r#"],"kind":"List","metadata":{"resourceVersion":""}}"#);
    text
}

fn identity(i: usize) -> (usize, usize, String) {
    (i / 100, i / 110, format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255))
}

fn lean_pod(i: usize) -> String {
    let (namespace, node, ip) = identity(i);
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"labels":{{"app":"app-{}","pod-template-hash":"6d4cf56db6","tier":"t{}"}},"name":"app-{i}-6d4cf56db6-x2x4k","namespace":"ns-{namespace}","uid":"{i:08x}-7b5c-4e6e-9f0a-0242ac120002"}},"spec":{{"containers":[{{"name":"main","ports":[{{"containerPort":8080,"name":"http","protocol":"TCP"}}]}}],"nodeName":"node-{node}"}},"status":{{"phase":"Running","podIP":"{ip}","podIPs":[{{"ip":"{ip}"}}]}}}}"#,
        i % 10,
        i % 3
    )
}

fn full_pod(i: usize) -> String {
    let (namespace, node, ip) = identity(i);
    let mut text = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"annotations":{{"checksum/config":"8a5c{i:08x}0b9e63b9f4ab","note":"a \"quoted\" text"}},"creationTimestamp":"2026-01-01T00:00:00Z","generateName":"app-6d4cf56db6-","labels":{{"app":"app-{}","pod-template-hash":"6d4cf56db6","tier":"t{}"}},"name":"app-{i}-6d4cf56db6-x2x4k","namespace":"ns-{namespace}","ownerReferences":[{{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"app-6d4cf56db6","uid":"1b2c"}}],"resourceVersion":"{i}","uid":"{i:08x}-7b5c-4e6e-9f0a-0242ac120002"}},"spec":{{"containers":[{{"image":"registry.example/shop/app:1.2.3","imagePullPolicy":"IfNotPresent","env":["#,
        i % 10,
        i % 3
    );
    for e in 0..8 {
        let _ = write!(
            text,
            r#"{}{{"name":"SETTING_{e}","value":"some value of this setting"}}"#,
            if e > 0 { "," } else { "" }
        );
    }
    let _ = write!(
        text,
        r#"],"name":"main","ports":[{{"containerPort":8080,"name":"http","protocol":"TCP"}},{{"containerPort":9090,"name":"metrics","protocol":"TCP"}}],"resources":{{"limits":{{"cpu":"1","memory":"512Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"volumeMounts":[{{"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","name":"kube-api-access","readOnly":true}}]}}],"dnsPolicy":"ClusterFirst","nodeName":"node-{node}","restartPolicy":"Always","schedulerName":"default-scheduler","serviceAccountName":"default","tolerations":[{{"effect":"NoExecute","key":"node.kubernetes.io/not-ready","operator":"Exists","tolerationSeconds":300}}]}},"status":{{"conditions":[{{"lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:05Z","status":"True","type":"Ready"}},{{"lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:05Z","status":"True","type":"PodScheduled"}}],"hostIP":"172.16.0.1","phase":"Running","podIP":"{ip}","podIPs":[{{"ip":"{ip}"}}],"qosClass":"Burstable","startTime":"2026-01-01T00:00:00Z"}}}}"#
    );
    text
}

fn policy(i: usize) -> String {
    format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"p-{i}","namespace":"ns-{}"}},"spec":{{"podSelector":{{"matchLabels":{{"app":"app-{}"}}}},"policyTypes":["Ingress","Egress"],"ingress":[{{"from":[{{"podSelector":{{"matchLabels":{{"tier":"t1"}}}}}},{{"namespaceSelector":{{"matchExpressions":[{{"key":"team","operator":"In","values":["a","b"]}}]}}}}],"ports":[{{"port":8080,"protocol":"TCP"}},{{"port":"metrics"}}]}}],"egress":[{{"to":[{{"ipBlock":{{"cidr":"10.0.0.0/8","except":["10.96.0.0/12"]}}}}]}}]}}}}"#,
        i % 1000,
        i % 10
    )
}

fn yaml(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, i| {
        let (namespace, node, ip) = identity(i);
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata:
  name: app-{i}
  namespace: ns-{namespace}
  labels:
    app: app-{}
    tier: t{}
spec:
  nodeName: node-{node}
  containers:
  - name: main
    ports:
    - containerPort: 8080
      name: http
status:
  phase: Running
  podIPs:
  - ip: {ip}
",
            i % 10,
            i % 3
        );
        text
    })
}
