//! Which parts of a flow a client wants.
//!
//! A mask names fields by paths such as `source.pod_name`. A part of which any field is named is
//! sent as a whole: the mask is there to save bytes, and no client may rely on what is not sent.
//! Not here: which flows it wants ([`crate::query`]).

use prost_types::FieldMask;

use crate::api::flow::Flow;

/// The parts that are wanted; all of them where none is named.
#[derive(Clone, Debug, Default)]
pub struct Mask(Vec<Part>);

/// A part of a flow: its name, and how it is taken out.
type Part = (&'static str, fn(&mut Flow));

/// Takes the field of this name out.
macro_rules! parts {
    ($($name:literal => $field:ident),* $(,)?) => {
        &[$(($name, |flow: &mut Flow| flow.$field = Default::default())),*]
    };
}

/// The parts that netpolc fills.
const PARTS: &[Part] = parts! {
    "time" => time,
    "verdict" => verdict,
    "drop_reason" => drop_reason,
    "IP" => ip,
    "l4" => l4,
    "source" => source,
    "destination" => destination,
    "Type" => r#type,
    "node_name" => node_name,
    "source_names" => source_names,
    "destination_names" => destination_names,
    "event_type" => event_type,
    "source_service" => source_service,
    "destination_service" => destination_service,
    "traffic_direction" => traffic_direction,
    "policy_match_type" => policy_match_type,
    "drop_reason_desc" => drop_reason_desc,
    "is_reply" => is_reply,
    "uuid" => uuid,
    "emitter" => emitter,
    "egress_allowed_by" => egress_allowed_by,
    "ingress_allowed_by" => ingress_allowed_by,
    "egress_denied_by" => egress_denied_by,
    "ingress_denied_by" => ingress_denied_by,
    "Summary" => summary,
};

/// The parts that Hubble has and netpolc never fills.
const EMPTY: &[&str] = &[
    "auth_type",
    "ethernet",
    "tunnel",
    "node_labels",
    "l7",
    "reply",
    "trace_observation_point",
    "trace_reason",
    "file",
    "ip_trace_id",
    "debug_capture_point",
    "interface",
    "proxy_port",
    "trace_context",
    "sock_xlate_point",
    "socket_cookie",
    "cgroup_id",
    "extensions",
    "policy_log",
    "aggregate",
];

impl Mask {
    /// Reads a mask.
    ///
    /// # Errors
    /// A path names no part of a flow.
    pub fn read(mask: Option<&FieldMask>) -> Result<Self, String> {
        let paths = mask.map(|mask| &mask.paths[..]).unwrap_or_default();
        let mut unwanted: Vec<Part> = PARTS.to_vec();
        for path in paths {
            let name = path.split('.').next().unwrap_or_default();
            if !EMPTY.contains(&name) && !PARTS.iter().any(|(part, _)| *part == name) {
                let names: Vec<&str> = PARTS.iter().map(|(part, _)| *part).collect();
                return Err(format!(
                    "field_mask: a flow has no field {path:?}; the first word of a path is one of \
                    {}",
                    names.join(", ")
                ));
            }
            unwanted.retain(|(part, _)| *part != name);
        }
        Ok(if paths.is_empty() { Self::default() } else { Self(unwanted) })
    }

    /// Takes out what is not wanted.
    pub fn apply(&self, flow: &mut Flow) {
        self.0.iter().for_each(|(_, take_out)| take_out(flow));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Result<Mask, String> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Mask::read(Some(&FieldMask { paths }))
    }

    #[test]
    fn what_is_not_named_is_taken_out() {
        let full = Flow { uuid: "u".into(), verdict: 2, summary: "s".into(), ..Flow::default() };
        let masked = |paths: &[&str]| {
            let mut flow = full.clone();
            mask(paths).unwrap().apply(&mut flow);
            flow
        };
        assert_eq!(masked(&[]), full);
        assert_eq!(masked(&["verdict"]), Flow { verdict: 2, ..Flow::default() });
        let two = Flow { verdict: 2, uuid: "u".into(), ..Flow::default() };
        assert_eq!(masked(&["verdict", "uuid", "l7.http", "source.pod_name"]), two);
        let why = mask(&["verdicts"]).unwrap_err();
        assert!(why.contains("no field \"verdicts\"") && why.contains("verdict, "), "{why}");
    }
}
