//! Filters as JSON: the same keys and values as the text form, with origin and placement, and
//! totals.
//!
//! Not here: text ([`crate::text`]), netlink.

use serde_json::{Map, Value, json};

use crate::{
    filter::{Action, Match},
    lowered::{Lowered, Placed, Spilled},
    text,
    totals::Totals,
};

/// `{"mode", "ports": [{"port", "ifindex", "filters": [...]}], "spilled": [...], "totals": {...}}`,
/// in a fixed order.
pub fn lowered(lowered: &Lowered) -> Value {
    let ports = lowered.ports.iter().map(|(port, placed)| {
        let filters: Vec<Value> = placed.iter().map(filter).collect();
        json!({ "port": port.name, "ifindex": port.ifindex.get(), "filters": filters })
    });
    json!({
        "mode": lowered.mode,
        "ports": ports.collect::<Vec<_>>(),
        "spilled": lowered.spilled.iter().map(spilled).collect::<Vec<_>>(),
        "totals": Totals::of(lowered),
    })
}

fn filter(placed: &Placed) -> Value {
    let filter = &placed.filter;
    let (kind, keys): (&str, Map<String, Value>) = match &filter.matches {
        Match::Local => {
            ("basic", Map::from_iter([("match".into(), "meta(sk_family gt 0)".into())]))
        }
        Match::Flower(pattern) => (
            "flower",
            text::keys(pattern)
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        ),
    };
    json!({
        "side": text::side(filter.side),
        "protocol": text::protocol(filter),
        "pref": filter.prio,
        "chain": filter.chain,
        "kind": kind,
        "keys": keys,
        "action": action(&filter.action),
        "placement": text::placement(filter.copies),
        "cookie": filter.cookie.0.map(|b| format!("{b:02x}")).concat(),
        "origins": placed.origins.as_slice(),
    })
}

fn action(action: &Action) -> Value {
    match action {
        Action::Pass => json!({ "kind": "pass" }),
        Action::Drop => json!({ "kind": "drop" }),
        Action::Continue => json!({ "kind": "continue" }),
        Action::Goto(chain) => json!({ "kind": "goto", "chain": chain }),
        Action::Track(chain) => json!({ "kind": "ct", "zone": 0, "chain": chain }),
        Action::Redirect(port) => json!({ "kind": "redirect", "ifindex": port.get() }),
    }
}

fn spilled(spilled: &Spilled) -> Value {
    json!({
        "port": spilled.port.name,
        "what": spilled.what,
        "reason": spilled.reason,
        "explanation": spilled.reason.describe(),
        "filters": spilled.filters,
        "origins": spilled.origins.as_slice(),
    })
}
