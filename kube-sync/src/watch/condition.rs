//! What keeps a kind from being watched, in words that say what to do about it.

use std::{error::Error as StdError, fmt};

use kube::{Error as ClientError, core::Status};

use super::stream::Trouble;
use crate::Resource;

/// Why a kind cannot be listed or watched at the moment. What is enforced stays as it is; the agent tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The kind.
    pub resource: Resource,
    /// Why.
    pub reason: Reason,
    /// What the server or the network said.
    pub detail: String,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// RBAC refuses.
    Forbidden,
    /// The credentials are refused, or cannot be read.
    Unauthorized,
    /// The server has no such kind.
    Missing,
    /// Nobody answers, or not securely.
    Unreachable,
    /// The connection stands, and nothing comes on it.
    Silent,
    /// The server fails, or answers what cannot be understood.
    Broken,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Condition { resource, reason, detail } = self;
        match reason {
            Reason::Forbidden => write!(
                f,
                "may not list and watch {resource}: {detail}; give the agent's service account a ClusterRole with \
                 get, list and watch on {resource}"
            ),
            Reason::Unauthorized => write!(
                f,
                "{resource}: the API server does not accept the credentials: {detail}; renew the token or the \
                 kubeconfig, which are read again at each attempt"
            ),
            Reason::Missing => write!(
                f,
                "the API server does not serve {resource}: {detail}; it needs Kubernetes 1.19 or newer with this API enabled"
            ),
            Reason::Unreachable => write!(
                f,
                "{resource}: the API server cannot be reached: {detail}; check its address, its certificate and the \
                 way there"
            ),
            Reason::Silent => write!(
                f,
                "{resource}: the API server is {detail}, and a new watch was not answered either; see its load and \
                 what lies between"
            ),
            Reason::Broken => {
                write!(f, "{resource}: the API server's answer is of no use: {detail}; see the API server's log")
            }
        }
    }
}

/// What a feed does about an error, after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Go on: the watcher knows how.
    Continue,
    /// List again: something may have been missed.
    Relist,
    /// New credentials, then list again.
    Reconnect,
    /// Another version of the API, or another way to list.
    Other,
}

/// What `trouble` means; None where it is part of ordinary life (an expired resource version).
pub(crate) fn diagnose(resource: Resource, trouble: &Trouble) -> (Option<Condition>, Remedy) {
    let (reason, detail, remedy) = match trouble {
        Trouble::Status(status) => return of_status(resource, status),
        Trouble::Access(error) => (Reason::Unauthorized, error.to_string(), Remedy::Continue),
        Trouble::Client(error) => match &**error {
            ClientError::Auth(error) => (Reason::Unauthorized, chain(error), Remedy::Reconnect),
            ClientError::HyperError(error) => (Reason::Unreachable, chain(error), Remedy::Continue),
            ClientError::Service(error) => (Reason::Unreachable, chain(&**error), Remedy::Continue),
            other => (Reason::Broken, chain(other), Remedy::Continue),
        },
        // The connection broke off between two events; the watch resumes after the last one.
        Trouble::Broken(error) => (Reason::Unreachable, chain(&**error), Remedy::Continue),
        Trouble::Silent(_) => (Reason::Silent, trouble.to_string(), Remedy::Continue),
        // Among what could not be read may have been an event.
        Trouble::Nonsense(_) | Trouble::NoVersion | Trouble::Incomplete => {
            (Reason::Broken, trouble.to_string(), Remedy::Relist)
        }
    };
    (Some(Condition { resource, reason, detail }), remedy)
}

fn of_status(resource: Resource, status: &Status) -> (Option<Condition>, Remedy) {
    let (reason, remedy) = match status.code {
        401 => (Reason::Unauthorized, Remedy::Reconnect),
        403 => (Reason::Forbidden, Remedy::Continue),
        404 => (Reason::Missing, Remedy::Other),
        400 | 422 => (Reason::Broken, Remedy::Other),
        410 => return (None, Remedy::Relist),
        502..=504 => (Reason::Unreachable, Remedy::Continue),
        _ => (Reason::Broken, Remedy::Continue),
    };
    let detail = match (status.message.is_empty(), status.code) {
        (false, _) => status.message.clone(),
        (true, code) => format!("status {code} {}", status.reason),
    };
    (Some(Condition { resource, reason, detail }), remedy)
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> Trouble {
        Trouble::Status(Box::new(Status { code, message: message.into(), ..Status::default() }))
    }

    #[test]
    fn conditions_name_the_kind_and_the_remedy() {
        let (condition, remedy) = diagnose(Resource::Policy, &status(403, "user x cannot list"));
        let text = condition.unwrap().to_string();
        assert!(text.contains("networkpolicies.networking.k8s.io") && text.contains("ClusterRole"), "{text}");
        assert_eq!(remedy, Remedy::Continue);
        let (condition, remedy) = diagnose(Resource::Pod, &status(401, ""));
        assert_eq!((condition.unwrap().reason, remedy), (Reason::Unauthorized, Remedy::Reconnect));
    }

    #[test]
    fn an_expired_version_is_no_condition_and_needs_a_list() {
        assert_eq!(diagnose(Resource::Pod, &status(410, "too old")), (None, Remedy::Relist));
    }
}
