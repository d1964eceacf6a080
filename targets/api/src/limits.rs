//! Checks whether a write makes sense for its table and whether its ids fit a target. Every target
//! asks this first, so that all of them refuse the same writes with the same words.
//!
//! Not here: what depends on the entries that are there already (room, overlapping intervals).

use netpolc_table::{
    Class, EndpointId, Entry, Key, Match, PortClassId, RowId, SetId, TableId, Write, eval,
    schema::{
        Answer, BaseKey, DirectoryKey, EndpointKey, Family, Leaf, MatchKind, Named, OwnKey,
        OwnMacKey, PortKey, RowKey, ServiceKey, SetEndpoint, SetPortClass, TriedKey, TunnelKey,
        VerdictKey, Word, family_number,
    },
};

use crate::{
    Capabilities, Error,
    semantics::{HAS_PORTS, ip},
};

/// An id of any kind, for limits and messages.
#[derive(Clone, Copy)]
enum Id {
    Endpoint(EndpointId),
    Set(SetId),
    Class(Class),
    Row(RowId),
    PortClass(PortClassId),
}

impl Id {
    fn limit(self, capabilities: &Capabilities) -> u32 {
        match self {
            Id::Endpoint(_) => capabilities.endpoints,
            Id::Set(_) => capabilities.sets,
            Id::Class(Class::V4(_)) => capabilities.classes_v4,
            Id::Class(Class::V6(_)) => capabilities.classes_v6,
            Id::Row(_) => capabilities.rows,
            Id::PortClass(_) => capabilities.port_classes,
        }
    }

    fn number(self) -> u16 {
        match self {
            Id::Endpoint(id) => id.get(),
            Id::Set(id) => id.get(),
            Id::Class(id) => id.get(),
            Id::Row(id) => id.get(),
            Id::PortClass(id) => id.get(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Id::Endpoint(_) => "endpoint",
            Id::Set(_) => "policy set",
            Id::Class(Class::V4(_)) => "IPv4 class",
            Id::Class(Class::V6(_)) => "IPv6 class",
            Id::Row(_) => "row",
            Id::PortClass(_) => "port class",
        }
    }
}

impl Capabilities {
    /// Checks a write against its table's description and these limits.
    ///
    /// # Errors
    /// [`Error::Invalid`] where key or action do not belong to the table, [`Error::Full`] where an
    /// id is not below its limit.
    pub fn check(&self, write: &Write) -> Result<(), Error> {
        for key in &write.remove {
            check_key(write.table, key)?;
        }
        for (key, entry) in &write.put {
            check_key(write.table, key)?;
            check_entry(write.table, entry)?;
            for id in ids(write.table, key, entry) {
                let (limit, number) = (id.limit(self), id.number());
                if u32::from(number) >= limit {
                    let what = format!(
                        "{} {number}; use fewer on this node, or a target with more",
                        id.name()
                    );
                    return Err(Error::Full { table: write.table, capacity: limit.into(), what });
                }
            }
        }
        Ok(())
    }
}

/// The ids in key and entry. Both must have passed their checks, since decoding relies on the
/// shape.
fn ids(table: TableId, key: &Key, entry: &Entry) -> Vec<Id> {
    let row = || Answer::of(Some(entry)).row().map(Id::Row);
    match table {
        TableId::Interface => vec![Id::Endpoint(SetEndpoint::of(entry).endpoint)],
        TableId::Endpoint => {
            let word = Word::of(entry);
            let endpoint = Id::Endpoint(EndpointKey::of(key).endpoint);
            [endpoint].into_iter().chain(word.sets().map(Id::Set)).collect()
        }
        TableId::OwnV4 => vec![Id::Endpoint(OwnKey::of(Family::V4, key).endpoint)],
        TableId::OwnV6 => vec![Id::Endpoint(OwnKey::of(Family::V6, key).endpoint)],
        TableId::OwnMac => vec![Id::Endpoint(OwnMacKey::of(key).endpoint)],
        TableId::RemoteV4 => vec![Id::Class(Leaf::of(Family::V4, entry).class)],
        TableId::RemoteV6 => vec![Id::Class(Leaf::of(Family::V6, entry).class)],
        TableId::Port => vec![Id::PortClass(SetPortClass::of(entry).port_class)],
        TableId::Base => [Id::Set(BaseKey::of(key).set)].into_iter().chain(row()).collect(),
        TableId::Row => {
            let RowKey { set, class } = RowKey::of(key);
            [Id::Set(set), Id::Class(class)].into_iter().chain(row()).collect()
        }
        TableId::Verdict => {
            let VerdictKey { row, port_class } = VerdictKey::of(key);
            vec![Id::Row(row), Id::PortClass(port_class)]
        }
        TableId::Tried => {
            let TriedKey { row, port_class } = TriedKey::of(key);
            vec![Id::Row(row), Id::PortClass(port_class)]
        }
        // The directory names ids; those that exceed a limit were refused in their own tables.
        TableId::Directory
        | TableId::ServiceV4
        | TableId::ServiceV6
        | TableId::Tunnel
        | TableId::OnLinkV6 => vec![],
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
            (MatchKind::Range, Match::Range { low, high }) => {
                low <= high && u128::from(high) <= most
            }
            _ => false,
        };
        if !good {
            return invalid(format!(
                "{value:?} is not a valid {:?} match of {} bits for {}",
                field.kind, field.width, field.name
            ));
        }
    }
    let ports = |family| {
        let protocol = ServiceKey::of(family, key).protocol;
        match HAS_PORTS.contains(&protocol) {
            true => Ok(()),
            false => invalid(format!("protocol {protocol} has no ports")),
        }
    };
    match table {
        TableId::Base | TableId::Row => match family_number(table, key) {
            Some(family) if family != 4 && family != 6 => {
                invalid(format!("family {family} is neither 4 nor 6"))
            }
            _ => Ok(()),
        },
        TableId::Port => {
            let PortKey { protocol, port } = PortKey::of(key);
            match (port.low, port.high) == (0, 0xffff) || eval::has_intervals(protocol) {
                true => Ok(()),
                false => invalid(format!("protocol {protocol} has no ports: write 0-65535")),
            }
        }
        TableId::ServiceV4 => ports(Family::V4),
        TableId::ServiceV6 => ports(Family::V6),
        TableId::Tunnel => match TunnelKey::of(key) {
            TunnelKey { protocol, port } if port != 0 && protocol != ip::UDP => {
                invalid(format!("a port of protocol {protocol}: tunnels have ports in UDP only"))
            }
            _ => Ok(()),
        },
        TableId::Directory => match DirectoryKey::of(key).named {
            Named::Unknown { kind, .. } if !(1..=Named::LAST_KIND).contains(&kind) => {
                invalid(format!("{kind:#x} is not a valid kind of id"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn check_entry(table: TableId, entry: &Entry) -> Result<(), Error> {
    let invalid = |reason| Err(Error::Invalid { table, reason });
    let action = entry.action.spec();
    if !table.spec().actions.contains(&entry.action) {
        return invalid(format!("the table has no action {}", action.name));
    }
    for (i, value) in entry.params().iter().enumerate() {
        let (name, bits) = action.params.get(i).map_or(("unused", 0), |p| (p.0, p.1));
        if value.checked_shr(bits.into()).unwrap_or(0) != 0 {
            return invalid(format!(
                "{value:#x} does not fit parameter {name} ({bits} bits) of {}",
                action.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use netpolc_table::{ActionId, ClassId, Incarnation, id::V6, schema};

    use super::*;

    fn small() -> Capabilities {
        Capabilities {
            endpoints: 4,
            sets: 4,
            classes_v4: 4,
            classes_v6: 8,
            rows: 4,
            port_classes: 4,
            connections: 16,
        }
    }

    fn refused(write: Write) -> String {
        small().check(&write).expect_err("refused").to_string()
    }

    #[test]
    fn s33_ids_past_a_limit_are_full() {
        let row = |class| {
            Write::put(
                TableId::Row,
                schema::row_key(SetId::new(1), ClassId::<V6>::new(class)),
                schema::plain(ActionId::Permit),
            )
        };
        assert!(small().check(&row(7)).is_ok());
        assert!(matches!(
            small().check(&row(8)),
            Err(Error::Full { table: TableId::Row, capacity: 8, .. })
        ));
        let set = schema::set_policy(schema::Word {
            ingress_set: SetId::new(0),
            egress_set: SetId::new(4),
            born_set: SetId::new(0),
            flags: 2,
        });
        assert!(
            refused(Write::put(TableId::Endpoint, schema::endpoint_key(EndpointId::new(1)), set))
                .contains("policy set 4")
        );
    }

    #[test]
    fn s27_keys_that_make_no_sense_are_refused() {
        let any = schema::set_port_class(PortClassId::new(1));
        assert!(
            refused(Write::put(TableId::Port, schema::port_key(6, 9, 8), any)).contains("Range")
        );
        let any = schema::set_port_class(PortClassId::new(1));
        let some = Write::put(TableId::Port, schema::port_key(50, 0, 8), any);
        assert!(refused(some).contains("protocol 50 has no ports"), "S77");
        let host_bits = schema::remote_key("10.0.0.1".parse().unwrap(), 24);
        assert!(
            refused(Write::put(
                TableId::RemoteV4,
                host_bits,
                schema::set_remote(Class::new(Family::V4, 1), Incarnation::default())
            ))
            .contains("Lpm")
        );
        let whole = schema::remote_key("::".parse().unwrap(), 0);
        assert!(
            small()
                .check(&Write::put(
                    TableId::RemoteV6,
                    whole,
                    schema::set_remote(Class::new(Family::V6, 1), Incarnation::default())
                ))
                .is_ok()
        );
        let wrong = Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(1), PortClassId::new(1)),
            schema::plain(ActionId::Own),
        );
        assert!(refused(wrong).contains("no action own"));
    }
}
