//! etcd behind the API server's back: 100,000 objects within seconds, changes while no server runs,
//! compaction. By etcd's JSON gateway (api-reference "etcdserverpb/rpc.proto").

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Request;
use kube::{Client, Config};
use serde_json::{Value, json};

use super::Server;

/// Objects in one transaction; the server is started with room for more.
const BATCH: usize = 500;

/// A connection to a server's etcd.
pub struct Storage {
    client: Client,
}

impl Storage {
    /// Connects.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn of(server: &Server) -> Result<Self> {
        let config = Config::new(format!("http://127.0.0.1:{}", server.etcd_port).parse()?);
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Writes objects as the API server stores them.
    ///
    /// # Errors
    /// etcd refuses an object, or its kind is not known here.
    pub async fn put_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        for (number, mut object) in objects.into_iter().enumerate() {
            let key = key(&object)?;
            let metadata =
                object["metadata"].as_object_mut().context("an object without metadata")?;
            // Never the same again: the time tells one process's objects from another's.
            let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
            let uid = format!("{:08x}-0000-4000-8000-{:012x}", number, time & 0xffff_ffff_ffff);
            metadata.entry("uid").or_insert_with(|| json!(uid));
            metadata.entry("creationTimestamp").or_insert_with(|| json!("2026-01-01T00:00:00Z"));
            let value = BASE64_STANDARD.encode(serde_json::to_vec(&object)?);
            batch.push(json!({"requestPut": {"key": key, "value": value}}));
            if batch.len() == BATCH {
                self.ask("txn", &json!({"success": std::mem::take(&mut batch)})).await?;
            }
        }
        if !batch.is_empty() {
            self.ask("txn", &json!({"success": batch})).await?;
        }
        Ok(())
    }

    /// Removes an object.
    ///
    /// # Errors
    /// etcd refuses the request.
    pub async fn delete(&self, object: &Value) -> Result<()> {
        self.ask("deleterange", &json!({"key": key(object)?})).await.map(drop)
    }

    /// Forgets everything but the present.
    ///
    /// # Errors
    /// etcd refuses the request.
    pub async fn compact(&self) -> Result<()> {
        let answer = self.ask("range", &json!({"key": BASE64_STANDARD.encode("/")})).await?;
        let revision = answer.pointer("/header/revision").context("an answer without revision")?;
        self.ask("compaction", &json!({"revision": revision, "physical": true})).await.map(drop)
    }

    async fn ask(&self, what: &str, body: &Value) -> Result<Value> {
        let path = match what {
            "txn" | "deleterange" | "range" | "compaction" => format!("/v3/kv/{what}"),
            other => anyhow::bail!("etcd cannot {other}"),
        };
        let request = Request::post(path).body(serde_json::to_vec(body)?)?;
        self.client.request(request).await.with_context(|| format!("etcd {what}"))
    }
}

fn key(object: &Value) -> Result<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let folder = match text("/kind") {
        "Namespace" => "namespaces",
        "Node" => "minions",
        "Pod" => "pods",
        "NetworkPolicy" => "networkpolicies",
        "Service" => "services/specs",
        "EndpointSlice" => "endpointslices",
        "ClusterRoleBinding" => "clusterrolebindings",
        other => anyhow::bail!("no key is known for {other}"),
    };
    let key = match text("/metadata/namespace") {
        "" => format!("/registry/{folder}/{}", text("/metadata/name")),
        namespace => format!("/registry/{folder}/{namespace}/{}", text("/metadata/name")),
    };
    Ok(BASE64_STANDARD.encode(key))
}
