//! Does a write make sense for its table, and do its ids fit a target? Every target asks this first, so that all refuse
//! the same writes with the same words.
//!
//! Not here: what depends on the entries that are there already (room, overlapping intervals).

use netpolc_table::{
    ActionId, Entry, Key, Match, TableId, Write,
    schema::{IdKind, MatchKind},
};

use crate::{
    Capabilities, Error,
    semantics::{HAS_PORTS, ip},
};

/// An id's kind, for limits and messages.
#[derive(Clone, Copy)]
enum Id {
    Endpoint,
    Set,
    ClassV4,
    ClassV6,
    Row,
    PortClass,
}

impl Id {
    fn limit(self, capabilities: &Capabilities) -> u32 {
        match self {
            Id::Endpoint => capabilities.endpoints,
            Id::Set => capabilities.sets,
            Id::ClassV4 => capabilities.classes_v4,
            Id::ClassV6 => capabilities.classes_v6,
            Id::Row => capabilities.rows,
            Id::PortClass => capabilities.port_classes,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Id::Endpoint => "endpoint",
            Id::Set => "policy set",
            Id::ClassV4 => "IPv4 class",
            Id::ClassV6 => "IPv6 class",
            Id::Row => "row",
            Id::PortClass => "port class",
        }
    }
}

impl Capabilities {
    /// Checks a write against its table's description and these limits.
    ///
    /// # Errors
    /// [`Error::Invalid`] where key or action do not belong to the table, [`Error::Full`] where an id is not below its limit.
    pub fn check(&self, write: &Write) -> Result<(), Error> {
        for key in &write.remove {
            check_key(write.table, key)?;
        }
        for (key, entry) in &write.put {
            check_key(write.table, key)?;
            check_entry(write.table, entry)?;
            for (id, value) in ids(write.table, key, entry) {
                let limit = id.limit(self);
                if value >= u64::from(limit) {
                    let what = format!("{} {value}; use fewer on this node, or a target with more", id.name());
                    return Err(Error::Full { table: write.table, capacity: limit.into(), what });
                }
            }
        }
        Ok(())
    }
}

/// The ids in key and entry. In `row` and `base` a family other than 6 counts as IPv4.
fn ids(table: TableId, key: &Key, entry: &Entry) -> Vec<(Id, u64)> {
    let field = |i: usize| key.value(i).low();
    let param = |i: usize| entry.params[i];
    let row = |mut ids: Vec<(Id, u64)>| {
        if entry.action == ActionId::SetRow {
            ids.push((Id::Row, param(0)));
        }
        ids
    };
    match table {
        TableId::Interface => vec![(Id::Endpoint, param(0))],
        TableId::Endpoint => vec![(Id::Endpoint, field(0)), (Id::Set, param(0)), (Id::Set, param(1))],
        TableId::OwnV4 | TableId::OwnV6 | TableId::OwnMac => vec![(Id::Endpoint, field(0))],
        TableId::RemoteV4 => vec![(Id::ClassV4, param(0))],
        TableId::RemoteV6 => vec![(Id::ClassV6, param(0))],
        TableId::Port => vec![(Id::PortClass, param(0))],
        TableId::Base => row(vec![(Id::Set, field(0))]),
        TableId::Row => {
            let class = if field(1) == 6 { Id::ClassV6 } else { Id::ClassV4 };
            row(vec![(Id::Set, field(0)), (class, field(2))])
        }
        TableId::Verdict => vec![(Id::Row, field(0)), (Id::PortClass, field(1))],
        // The directory names ids; those that exceed a limit were refused in their own tables.
        TableId::Directory | TableId::ServiceV4 | TableId::ServiceV6 | TableId::Tunnel | TableId::OnLinkV6 => vec![],
    }
}

fn check_key(table: TableId, key: &Key) -> Result<(), Error> {
    let spec = table.spec();
    let invalid = |reason| Err(Error::Invalid { table, reason });
    if key.fields().len() != spec.fields.len() {
        return invalid(format!("{} key fields, not {}", key.fields().len(), spec.fields.len()));
    }
    for (field, value) in spec.fields.iter().zip(key.fields()) {
        let most = u128::MAX >> (128 - u32::from(field.width));
        let good = match (field.kind, *value) {
            (MatchKind::Exact, Match::Exact(v)) => v.get() <= most,
            (MatchKind::Lpm, Match::Lpm { value, length }) => {
                let host = most.checked_shr(length.into()).unwrap_or(0);
                length <= field.width && value.get() <= most && value.get() & host == 0
            }
            (MatchKind::Range, Match::Range { low, high }) => low <= high && u128::from(high) <= most,
            _ => false,
        };
        if !good {
            return invalid(format!(
                "{value:?} is no {:?} match of {} bits for {}",
                field.kind, field.width, field.name
            ));
        }
    }
    let family = match table {
        TableId::Base | TableId::Row => key.value(1).low(),
        _ => 4,
    };
    let kinds = IdKind::Endpoint as u64..=IdKind::ClassV6 as u64;
    match table {
        _ if family != 4 && family != 6 => invalid(format!("family {family} is neither 4 nor 6")),
        TableId::ServiceV4 | TableId::ServiceV6 if !HAS_PORTS.contains(&(key.value(1).low() as u8)) => {
            invalid(format!("protocol {} has no ports", key.value(1).low()))
        }
        TableId::Tunnel if key.value(1).low() != 0 && key.value(0).low() != u64::from(ip::UDP) => {
            invalid(format!("a port of protocol {}: tunnels have ports in UDP only", key.value(0).low()))
        }
        TableId::Directory if !kinds.contains(&key.value(0).low()) => invalid(format!("kind {:?}", key.value(0))),
        _ => Ok(()),
    }
}

fn check_entry(table: TableId, entry: &Entry) -> Result<(), Error> {
    let invalid = |reason| Err(Error::Invalid { table, reason });
    let action = entry.action.spec();
    if !table.spec().actions.contains(&entry.action) {
        return invalid(format!("no action {}", action.name));
    }
    for (i, value) in entry.params.iter().enumerate() {
        let (name, bits) = action.params.get(i).map_or(("unused", 0), |p| (p.0, p.1));
        if value.checked_shr(bits.into()).unwrap_or(0) != 0 {
            return invalid(format!("{value:#x} does not fit parameter {name} ({bits} bits) of {}", action.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use netpolc_table::schema;

    use super::*;

    fn small() -> Capabilities {
        Capabilities { endpoints: 4, sets: 4, classes_v4: 4, classes_v6: 8, rows: 4, port_classes: 4, connections: 16 }
    }

    fn refused(write: Write) -> String {
        small().check(&write).expect_err("refused").to_string()
    }

    #[test]
    fn s33_ids_past_a_limit_are_full() {
        let row = |class| {
            Write::put(TableId::Row, schema::row_key(1, schema::Family::V6, class), schema::plain(ActionId::Permit))
        };
        assert!(small().check(&row(7)).is_ok());
        assert!(matches!(small().check(&row(8)), Err(Error::Full { table: TableId::Row, capacity: 8, .. })));
        let set = schema::set_policy(schema::Word { ingress_set: 0, egress_set: 4, flags: 2 });
        assert!(refused(Write::put(TableId::Endpoint, schema::endpoint_key(1), set)).contains("policy set 4"));
    }

    #[test]
    fn s27_keys_that_make_no_sense_are_refused() {
        let any = schema::entry(ActionId::SetPortClass, 1u16);
        assert!(refused(Write::put(TableId::Port, schema::port_key(6, 9, 8), any)).contains("Range"));
        let host_bits = schema::remote_key("10.0.0.1".parse().unwrap(), 24);
        assert!(refused(Write::put(TableId::RemoteV4, host_bits, schema::set_remote(1, 0))).contains("Lpm"));
        let whole = schema::remote_key("::".parse().unwrap(), 0);
        assert!(small().check(&Write::put(TableId::RemoteV6, whole, schema::set_remote(1, 0))).is_ok());
        let wrong = Write::put(TableId::Verdict, schema::verdict_key(1, 1), schema::plain(ActionId::Own));
        assert!(refused(wrong).contains("no action own"));
    }
}
