//! Describes what keeps a kind from being watched, in words that say what to do about it, and
//! decides what the feed does next.

use std::{error::Error as StdError, fmt};

use kube::{Error as ClientError, core::Status};

use super::stream::Trouble;
use crate::Resource;

/// The reason why a kind cannot be listed or watched at the moment. What is enforced stays as it
/// is, and the agent tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The kind that is not watched.
    pub resource: Resource,
    /// The class of failure.
    pub reason: Reason,
    /// The error, in the words of the server or the network.
    pub detail: String,
}

/// A class of failures, each with its own remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// RBAC denies the request.
    Forbidden,
    /// The credentials are rejected, or cannot be read.
    Unauthorized,
    /// The server does not serve this kind.
    Missing,
    /// The server does not answer, or the connection is not secure.
    Unreachable,
    /// The connection is open, but nothing arrives on it.
    Silent,
    /// The server fails, or its answer cannot be understood.
    Broken,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Condition { resource, reason, detail } = self;
        match reason {
            Reason::Forbidden => write!(
                f,
                "the agent is not allowed to list and watch {resource}: {detail}; give its service \
                account a ClusterRole with get, list and watch on {resource}"
            ),
            Reason::Unauthorized => write!(
                f,
                "{resource}: the API server does not accept the credentials: {detail}; renew the \
                token or the kubeconfig, which are read again at each attempt"
            ),
            Reason::Missing => write!(
                f,
                "the API server does not serve {resource}: {detail}; netpolc needs Kubernetes 1.19 \
                or newer with this API enabled"
            ),
            Reason::Unreachable => write!(
                f,
                "{resource}: the API server cannot be reached: {detail}; check its address, its \
                certificate and the network in between"
            ),
            Reason::Silent => write!(
                f,
                "{resource}: {detail}, and a new watch was not answered either; check its load and \
                the network in between"
            ),
            Reason::Broken => {
                write!(
                    f,
                    "{resource}: the API server's answer cannot be used: {detail}; see the API \
                    server's log"
                )
            }
        }
    }
}

/// What a feed does after an error and a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Resume the watch, or the list, where it broke off.
    Continue,
    /// List again, since an event may have been missed.
    Relist,
    /// Read the credentials again and make a new client.
    Reconnect,
    /// Try another version of the API, or another way to list.
    Other,
}

/// What `trouble` means, and what to do about it. The condition is None where the error is expected
/// in normal operation (an expired resource version).
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
        // The part that could not be read may have held an event.
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

/// The message of an error followed by those of its causes; a cause whose text the message already
/// contains is left out.
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
        assert!(
            text.contains("networkpolicies.networking.k8s.io") && text.contains("ClusterRole"),
            "{text}"
        );
        assert_eq!(remedy, Remedy::Continue);
        let (condition, remedy) = diagnose(Resource::Pod, &status(401, ""));
        assert_eq!((condition.unwrap().reason, remedy), (Reason::Unauthorized, Remedy::Reconnect));
    }

    #[test]
    fn an_expired_version_is_no_condition_and_needs_a_list() {
        assert_eq!(diagnose(Resource::Pod, &status(410, "too old")), (None, Remedy::Relist));
    }
}
