//! Objects through the API server, as JSON: create, patch, delete, many at once.

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

/// Requests under way at once.
const PARALLEL: usize = 32;

/// The URL of an object's collection.
///
/// # Errors
/// A kind that is not known here.
fn collection(kind: &str, namespace: Option<&str>) -> Result<String> {
    let (group, plural) = match kind {
        "Namespace" => ("api/v1", "namespaces"),
        "Node" => ("api/v1", "nodes"),
        "Pod" => ("api/v1", "pods"),
        "Service" => ("api/v1", "services"),
        "EndpointSlice" => ("apis/discovery.k8s.io/v1", "endpointslices"),
        "NetworkPolicy" => ("apis/networking.k8s.io/v1", "networkpolicies"),
        "Event" => ("apis/events.k8s.io/v1", "events"),
        "NodePolicyStatus" => ("apis/netpolc.dev/v1alpha1", "nodepolicystatuses"),
        "ClusterRole" => ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
        "ClusterRoleBinding" => ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
        other => anyhow::bail!("no URL is known for {other}"),
    };
    Ok(match namespace {
        Some(namespace) => format!("/{group}/namespaces/{namespace}/{plural}"),
        None => format!("/{group}/{plural}"),
    })
}

fn text<'v>(object: &'v Value, pointer: &str) -> Option<&'v str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// Creates an object, and sets the status that it has.
///
/// # Errors
/// The server refuses the object.
pub async fn create(client: &Client, object: &Value) -> Result<()> {
    let kind = text(object, "/kind").context("an object without kind")?;
    let namespace = text(object, "/metadata/namespace");
    let collection = collection(kind, namespace)?;
    let request = Request::post(&collection).header("content-type", "application/json");
    let name = text(object, "/metadata/name").unwrap_or_default();
    let what = || format!("create {kind} {name}");
    client.request::<Value>(request.body(serde_json::to_vec(object)?)?).await.with_context(what)?;
    if let Some(status) = object.get("status") {
        patch_status(client, kind, namespace, name, status).await?;
    }
    Ok(())
}

/// Merges `status` into an object's.
///
/// # Errors
/// The server refuses the patch.
pub async fn patch_status(
    client: &Client,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    status: &Value,
) -> Result<()> {
    let url = format!("{}/{name}/status", collection(kind, namespace)?);
    let request = Request::patch(url).header("content-type", "application/merge-patch+json");
    let body = serde_json::to_vec(&json!({"status": status}))?;
    client
        .request::<Value>(request.body(body)?)
        .await
        .with_context(|| format!("status of {kind} {name}"))?;
    Ok(())
}

/// Merges `patch` into an object.
///
/// # Errors
/// The server refuses the patch.
pub async fn patch(
    client: &Client,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    patch: &Value,
) -> Result<()> {
    let url = format!("{}/{name}", collection(kind, namespace)?);
    let request = Request::patch(url).header("content-type", "application/merge-patch+json");
    let request = request.body(serde_json::to_vec(patch)?)?;
    client.request::<Value>(request).await.with_context(|| format!("patch {kind} {name}"))?;
    Ok(())
}

/// Deletes an object at once: no kubelet ends its pods.
///
/// # Errors
/// The server refuses to delete the object, also because there is none.
pub async fn delete(
    client: &Client,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
) -> Result<()> {
    let url = format!("{}/{name}", collection(kind, namespace)?);
    let request = Request::delete(url).header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&json!({"gracePeriodSeconds": 0}))?)?;
    client.request::<Value>(request).await.with_context(|| format!("delete {kind} {name}"))?;
    Ok(())
}

/// All objects of a kind.
///
/// # Errors
/// The server refuses to list, or answers with something that is not a list.
pub async fn list(client: &Client, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>> {
    let url = collection(kind, namespace)?;
    let get = async |url: &str| {
        client
            .request::<Value>(Request::get(url).body(vec![]).map_err(kube::Error::HttpError)?)
            .await
    };
    let list = match get(&url).await {
        // Kubernetes 1.20 has slices as a beta only, and 1.25 no longer has that.
        Err(kube::Error::Api(status)) if status.code == 404 && kind == "EndpointSlice" => {
            get(&url.replace("/v1/", "/v1beta1/")).await
        }
        list => list,
    };
    let mut list = list.with_context(|| format!("list {kind}"))?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(vec![]),
    }
}

/// Creates many objects, several at a time.
///
/// # Errors
/// The server refuses one of the objects; those before it are there.
pub async fn create_all(client: &Client, objects: impl IntoIterator<Item = Value>) -> Result<()> {
    let work = stream::iter(objects).map(|object| async move { create(client, &object).await });
    work.buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await.map(drop)
}
