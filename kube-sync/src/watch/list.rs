//! Reads a cluster once, for whoever answers questions about it: one list of each kind, in pages,
//! by the same conversion as in watching. Not here: what is read beside it from files, and what is
//! made up (`survey`).

use std::time::Duration;

use kube::{
    Client,
    core::{ApiResource, ObjectList, Request, Resource as _, params::ListParams},
};
use netpolc_policy::OwnerKind;

use super::{
    access::{Access, AccessError},
    condition::chain,
    convert::SOURCE,
    raw::Raw,
    stream::{self, Trouble},
};
use crate::{
    Absent, Families, Input, Resource, Severity, Survey, load::Loader, object::ItemType, survey,
};

/// The number of objects in a page.
const PAGE_SIZE: u32 = 2_500;
/// How long each part of a list may take to arrive.
const LIST_TIMEOUT: Duration = Duration::from_secs(40);

/// All kinds that clusters may have.
const FAMILIES: Families = Families { tiers: true, groups: true, staged: true };

/// Why a cluster could not be read. There is no answer then, since an answer without some kind
/// could be a wrong one.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// No client can be made.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No runtime for requests could be started.
    #[error("the async runtime could not be started: {0}")]
    Runtime(#[source] std::io::Error),
    /// A kind could not be listed.
    #[error("{kind} cannot be listed: {detail}; {remedy}")]
    Kind {
        /// The kind, as RBAC and kubectl name it.
        kind: String,
        /// The error, in the words of the server or the network.
        detail: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// A kind that is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    Kind(Resource),
    Workload(OwnerKind),
}

impl Listed {
    /// The kinds that matter; workloads do only where pods are made up for them.
    fn all(absent: Absent) -> impl Iterator<Item = Listed> {
        let workloads = match absent {
            Absent::MadeUp => &OwnerKind::WORKLOADS[..],
            Absent::Absent => &[],
        };
        FAMILIES.watched().map(Listed::Kind).chain(workloads.iter().cloned().map(Listed::Workload))
    }

    /// The kind in each version that has the fields that are read, the preferred one first.
    fn apis(&self) -> Vec<ApiResource> {
        match self {
            Listed::Kind(resource) => {
                resource.versions().iter().map(|version| resource.api(version)).collect()
            }
            Listed::Workload(kind) => {
                let (group, versions): (&str, &[&str]) = match kind {
                    OwnerKind::ReplicationController => ("", &["v1"]),
                    OwnerKind::CronJob => ("batch", &["v1", "v1beta1"]),
                    OwnerKind::Job => ("batch", &["v1"]),
                    _ => ("apps", &["v1"]),
                };
                let of = |version: &&str| ApiResource {
                    group: group.into(),
                    version: (*version).into(),
                    api_version: match group {
                        "" => (*version).into(),
                        group => format!("{group}/{version}"),
                    },
                    kind: kind.name().into(),
                    plural: format!("{}s", kind.name().to_lowercase()),
                };
                versions.iter().map(of).collect()
            }
        }
    }

    /// Whether an input without the kind gives true answers.
    fn may_be_secret(&self) -> bool {
        matches!(self, Listed::Workload(_))
    }

    /// Whether it is no mistake that a cluster does not have the kind.
    fn may_lack(&self) -> bool {
        match self {
            Listed::Kind(resource) => resource.is_optional(),
            Listed::Workload(_) => true,
        }
    }
}

/// Reads the cluster, and then `files` beside it, as [`crate::survey()`] reads files.
///
/// # Errors
/// There is no way to the API server, or it does not list a kind that an answer may depend on.
pub fn survey_cluster(
    access: &Access,
    files: impl IntoIterator<Item = Input>,
    absent: Absent,
) -> Result<Survey, ListError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ListError::Runtime)?;
    let mut loader = Loader::answering();
    runtime.block_on(async {
        let client = access.client().await?;
        for listed in Listed::all(absent) {
            list(&client, &listed, &mut loader).await?;
        }
        Ok::<(), ListError>(())
    })?;
    for input in files {
        loader.input(input);
    }
    Ok(survey::finish(loader, absent))
}

/// Lists a kind in the first version that the server has.
async fn list(client: &Client, listed: &Listed, loader: &mut Loader) -> Result<(), ListError> {
    let apis = listed.apis();
    for (index, api) in apis.iter().enumerate() {
        match pages(client, api, loader).await {
            Ok(()) => return Ok(()),
            Err(Trouble::Status(status)) if status.code == 404 => {
                if index + 1 < apis.len() {
                    continue;
                }
                if listed.may_lack() {
                    return Ok(());
                }
                return Err(error(api, status.message, MISSING));
            }
            // No verdict about what is there depends on a workload.
            Err(Trouble::Status(status)) if status.code == 403 && listed.may_be_secret() => {
                let error = error(api, status.message, "no pod is made up for any of them");
                loader.whole(SOURCE, error.to_string(), Severity::Warning);
                return Ok(());
            }
            Err(Trouble::Status(status)) => {
                let remedy = match status.code {
                    401 => "renew the credentials in the kubeconfig",
                    403 => "ask for a role with the verb list on it in the whole cluster",
                    _ => "see the API server's log",
                };
                return Err(error(api, status.message, remedy));
            }
            Err(trouble) => {
                let remedy = "check the server's address, its certificate and the network";
                return Err(error(api, chain(&trouble), remedy));
            }
        }
    }
    Ok(())
}

/// What to do about a kind that every cluster has.
const MISSING: &str = "netpolc needs Kubernetes 1.19 or newer with this API enabled";

fn error(api: &ApiResource, detail: String, remedy: &'static str) -> ListError {
    let kind = match &*api.group {
        "" => api.plural.clone(),
        group => format!("{}.{group}", api.plural),
    };
    ListError::Kind { kind, detail, remedy }
}

/// Lists a kind in pages, and converts each page as it comes.
async fn pages(client: &Client, api: &ApiResource, loader: &mut Loader) -> Result<(), Trouble> {
    let mut parameters = ListParams::default().limit(PAGE_SIZE);
    loop {
        let request = Request::new(Raw::url_path(api, None)).list(&parameters);
        let request = request.map_err(|error| Trouble::from(kube::Error::BuildRequest(error)))?;
        let (_, text) = stream::get(client, request, LIST_TIMEOUT).await?;
        let list: ObjectList<Raw> = serde_json::from_slice(&text)?;
        // The objects own their text; a page of it need not stay in memory.
        drop(text);
        for raw in &list.items {
            let item_type = ItemType { kind: &api.kind, api_version: Some(&api.api_version) };
            loader.served(SOURCE, raw.json.get(), item_type);
        }
        match list.metadata.continue_ {
            Some(next) if !next.is_empty() => parameters.continue_token = Some(next),
            _ => return Ok(()),
        }
    }
}
