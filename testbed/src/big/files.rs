//! A big cluster as JSON List files. Pods carry what an API server shows of them and policy does
//! not need (containers with environment and mounts, conditions, statuses), some 3 KB each, so that
//! decoding them costs what it costs in real life.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use netpolc_policy::Pod;
use serde_json::{Value, json};

use super::Big;
use crate::manifest;

/// The most pods in one file.
const PODS_PER_FILE: usize = 10_000;

impl Big {
    /// Writes `namespaces.json`, `nodes.json`, `policies.json` and `pods-000.json` and on to
    /// `folder`; gives their paths. Holds one object at a time. At the default size some 300 MB.
    ///
    /// # Errors
    /// A file cannot be created or written.
    pub fn write(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        let mut list = |name: String, items: &mut dyn Iterator<Item = Value>| -> io::Result<()> {
            let path = folder.join(name);
            let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
            file.write_all(
                br#"{"apiVersion":"v1","kind":"List","metadata":{"resourceVersion":""},"items":["#,
            )?;
            for (at, item) in items.enumerate() {
                file.write_all(if at == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut file, &item)?;
            }
            file.write_all(b"\n]}\n")?;
            file.flush()?;
            written.push(path);
            Ok(())
        };
        let namespaces = (0..self.namespaces).map(|n| self.namespace(n));
        list(
            "namespaces.json".into(),
            &mut namespaces.map(|(name, namespace)| manifest::namespace(&name, &namespace)),
        )?;
        let nodes = (0..self.nodes()).map(|n| manifest::node(&self.node_name(n), &self.node(n)));
        list("nodes.json".into(), &mut { nodes })?;
        list("policies.json".into(), &mut self.policies().map(|p| manifest::policy(&p)))?;
        let mut pods = self.pods().map(|p| full(&p)).peekable();
        let mut number = 0;
        while pods.peek().is_some() {
            list(format!("pods-{number:03}.json"), &mut pods.by_ref().take(PODS_PER_FILE))?;
            number += 1;
        }
        Ok(written)
    }
}

/// The pod with all the rest.
fn full(pod: &Pod) -> Value {
    let mut object = manifest::pod(pod);
    let (name, hash) = (&*pod.key.name, pod.labels.get("pod-template-hash").unwrap_or(""));
    let app = pod.labels.get("app").unwrap_or("app");
    let created = "2026-01-01T00:00:00Z";
    let metadata = &mut object["metadata"];
    metadata["creationTimestamp"] = json!(created);
    metadata["generateName"] = json!(format!("{app}-{hash}-"));
    metadata["resourceVersion"] = json!("123456789");
    metadata["annotations"] =
        json!({"prometheus.io/scrape": "true", "checksum/config": hash.repeat(4)});
    metadata["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-{hash}"),
        "uid": pod.uid, "controller": true, "blockOwnerDeletion": true,
    }]);
    let spec = &mut object["spec"];
    let container = &mut spec["containers"][0];
    container["name"] = json!(app);
    container["image"] = json!(format!("registry.example.com/team/{app}:1.2.3"));
    container["imagePullPolicy"] = json!("IfNotPresent");
    container["resources"] = json!({"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}});
    container["env"] = ["POD_IP", "POD_NAME", "LOG_LEVEL", "DATABASE_URL"]
        .map(|n| json!({"name": n, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}))
        .into();
    container["readinessProbe"] = json!({
        "httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"},
        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
    });
    container["volumeMounts"] = json!([
        {"name": "config", "mountPath": "/etc/config", "readOnly": true},
        {"name": "kube-api-access", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
    ]);
    spec["volumes"] = json!([
        {"name": "config", "configMap": {"name": format!("{app}-config"), "defaultMode": 420}},
        {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]}},
    ]);
    for (field, value) in [
        ("restartPolicy", "Always"),
        ("dnsPolicy", "ClusterFirst"),
        ("serviceAccountName", app),
        ("schedulerName", "default-scheduler"),
        ("preemptionPolicy", "PreemptLowerPriority"),
    ] {
        spec[field] = json!(value);
    }
    spec["tolerations"] = ["not-ready", "unreachable"]
        .map(|k| json!({"key": format!("node.kubernetes.io/{k}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}))
        .into();
    let status = &mut object["status"];
    status["conditions"] = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|t| json!({"type": t, "status": "True", "lastProbeTime": null, "lastTransitionTime": created}))
        .into();
    status["containerStatuses"] = json!([{
        "name": app, "ready": true, "restartCount": 0, "started": true,
        "image": format!("registry.example.com/team/{app}:1.2.3"),
        "containerID": format!("containerd://{}", hash.repeat(6)),
        "state": {"running": {"startedAt": created}}, "lastState": {},
    }]);
    status["startTime"] = json!(created);
    status["qosClass"] = json!("Burstable");
    status["message"] = json!(format!("{name} is running"));
    object
}
