//! Services by their names: a probe about one is asked about each of its backends, since a packet
//! is judged by the backend that it was translated to (S48). Not here: what is behind a Service
//! ([`netpolc_policy::frontend`]).

use netpolc_policy::{
    Cluster, Frontends, IpFamily, ObjectKey, Protocol,
    frontend::{Backend, PortChoice, backends},
    oracle::{Party, Question, Transport},
};
use serde_json::{Map, Value, json};

use super::probe::{End, Probe, family, of_family, protocol};
use crate::cli::resolve::pod as object_name;

/// The ways that a packet may take, each with what an answer says of it and the question.
pub(super) type Routes = Vec<(Map<String, Value>, Question)>;

/// What a probe without a Service has as `dst` stands before the name of one.
const PREFIX: &str = "svc/";

/// The questions that a probe about a Service stands for; None where it is about none.
///
/// # Errors
/// The message names the key that is missing or not valid, or says why nothing is known to be
/// behind the Service.
pub(super) fn routes(
    cluster: &Cluster,
    frontends: &Frontends,
    probe: &Probe,
) -> Result<Option<Routes>, String> {
    let Some((key, choice)) = service(probe)? else { return Ok(None) };
    for other in ["dstIP", "via", "type", "code"] {
        if !matches!(probe.get(other), None | Some(Value::Null)) {
            return Err(format!(
                "{other}: a probe about a Service does not have it; to ask about one of its \
                 backends, write the pod as dst"
            ));
        }
    }
    let (family, source) = (family(probe)?, End::read(cluster, probe, "src", "srcIP")?);
    let found = backends(cluster, frontends, &key, &choice).map_err(|error| error.to_string())?;
    let wanted = wanted(probe, &source)?;
    let mut routes = Routes::new();
    for backend in found.iter().filter(|b| wanted.is_none_or(|p| p == b.frontend.protocol)) {
        let of_end = IpFamily::of(backend.address);
        let from = source.addresses.iter().find(|address| IpFamily::of(**address) == of_end);
        if let Some(from) = from.filter(|_| family.is_none_or(|family| family == of_end)) {
            routes.push((shown(backend), question(source.party(*from), backend)));
        }
    }
    if routes.is_empty() {
        return Err(format!(
            "src ({}) and the backends of Service {key} have no addresses{} in common{}",
            source.list(),
            family.map(of_family).unwrap_or_default(),
            wanted.map(|protocol| format!(" for {protocol}")).unwrap_or_default()
        ));
    }
    Ok(Some(routes))
}

/// The Service that a probe names, by `service`, or by `dst` as `svc/NAMESPACE/NAME:PORT`, and the
/// ports of it that are meant.
fn service(probe: &Probe) -> Result<Option<(ObjectKey, PortChoice)>, String> {
    let of_dst = probe.get("dst").and_then(Value::as_str).and_then(|dst| dst.strip_prefix(PREFIX));
    let (name, key) = match (probe.get("service"), of_dst) {
        (None | Some(Value::Null), None) => return Ok(None),
        (None | Some(Value::Null), Some(name)) => (name, "dst"),
        (Some(_), _) if probe.get("dst").is_some_and(|dst| *dst != Value::Null) => {
            return Err("service: the probe has dst, too; write one of them".into());
        }
        (Some(Value::String(name)), _) => (name.as_str(), "service"),
        (Some(other), _) => {
            return Err(format!("service: {other} is not a string; write \"namespace/name\""));
        }
    };
    let (name, port) = match name.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (name, None),
    };
    let service = object_name(name).map_err(|_| {
        let wanted = if key == "dst" { "svc/namespace/name:port" } else { "namespace/name" };
        format!("{key}: {name:?} is not the name of a Service; write {wanted:?}")
    })?;
    let given = match probe.get("port") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(other) => {
            return Err(format!("port: {other} is not the name or number of a Service's port"));
        }
    };
    let choice = match (port, given) {
        (Some(""), _) => return Err(format!("{key}: the port behind `:` is empty")),
        (Some(_), Some(_)) => {
            return Err(format!("port: {key} names the port, too; write it once"));
        }
        (Some(port), None) => PortChoice::named(port),
        (None, Some(given)) => PortChoice::named(&given),
        (None, None) => PortChoice::All,
    };
    Ok(Some((service, choice)))
}

/// The protocol that the probe names; None where it leaves that to the Service.
fn wanted(probe: &Probe, source: &End) -> Result<Option<Protocol>, String> {
    if matches!(probe.get("proto"), None | Some(Value::Null)) {
        return Ok(None);
    }
    let named = protocol(probe.get("proto"), source.addresses[0])?;
    named.protocol().map(Some).ok_or_else(|| {
        "proto: a Service has ports of tcp, udp and sctp only; ask about its pods by their names"
            .into()
    })
}

fn question(source: Party, backend: &Backend) -> Question {
    let destination = match &backend.pod {
        Some(pod) => Party::Pod(pod.clone(), backend.address),
        None => Party::Address(backend.address),
    };
    Question {
        source,
        destination,
        protocol: Transport::from_number(backend.frontend.protocol.number()),
        port: Some(backend.port),
        via: backend.via,
    }
}

/// What an answer says of a backend beside the verdict.
fn shown(backend: &Backend) -> Map<String, Value> {
    let mut shown = Map::new();
    if let Some(pod) = &backend.pod {
        shown.insert("pod".into(), json!(pod));
    }
    shown.insert("address".into(), json!(backend.address));
    shown.insert("proto".into(), json!(backend.frontend.protocol.to_string().to_lowercase()));
    shown.insert("port".into(), json!(backend.port));
    shown.insert("servicePort".into(), json!(backend.frontend.number));
    shown
}

#[cfg(test)]
mod tests;
