//! The macros behind the schema's declarations. Each makes, of one list, the enumeration of what is
//! in it, the descriptions as data, and a typed view of each item.

use super::{FieldSpec, Format};

/// The fields of a key's parts, named by their part where they have no name of their own.
pub(super) const fn fields<const N: usize>(
    parts: &[(&'static str, &'static [FieldSpec], Option<Format>)],
) -> [FieldSpec; N] {
    let mut out =
        [FieldSpec { name: "", width: 0, kind: super::MatchKind::Exact, format: Format::Decimal };
            N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let (name, list, format) = parts[part];
        let mut i = 0;
        while i < list.len() {
            out[at] = list[i];
            if list[i].name.is_empty() {
                out[at].name = name;
            }
            if let Some(format) = format {
                out[at].format = format;
            }
            (at, i) = (at + 1, i + 1);
        }
        part += 1;
    }
    out
}

/// How many fields these parts have.
pub(super) const fn count(parts: &[(&'static str, &'static [FieldSpec], Option<Format>)]) -> usize {
    let (mut count, mut part) = (0, 0);
    while part < parts.len() {
        count += parts[part].1.len();
        part += 1;
    }
    count
}

/// An action's parameters, with zeros after them.
pub(super) fn padded<const N: usize>(values: [u64; N]) -> [u64; 4] {
    let mut params = [0; 4];
    params[..N].copy_from_slice(&values);
    params
}

macro_rules! format_of {
    ($default:expr;) => {
        $default
    };
    ($default:expr; $format:ident) => {
        Format::$format
    };
}

macro_rules! override_of {
    () => {
        None
    };
    ($format:ident) => {
        Some(Format::$format)
    };
}

/// A function that makes a key or entry of a view's fields, where it has a name.
macro_rules! constructor {
    ($doc:expr, $view:ident, $method:ident, $out:ty, ($($field:ident: $type:ty),*)) => {};
    ($doc:expr, $view:ident, $method:ident, $out:ty, ($($field:ident: $type:ty),*) $name:ident) => {
        #[doc = $doc]
        pub fn $name($($field: $type),*) -> $out {
            $view { $($field),* }.$method()
        }
    };
}

/// ```text
/// /// doc
/// Table "name" View { field: Part as Format, ... } fn constructor
///     => Action | Action; else DefaultAction
/// ```
macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident $name:literal $view:ident {
        $($field:ident: $type:ty $(as $format:ident)?),*
    } $(fn $construct:ident)? => $($action:ident)|+; else $default:ident)*) => {
        /// The tables, in pipeline order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum TableId { $($(#[$doc])* $table),* }

        impl TableId {
            /// Every table, in the order of the pipeline.
            pub const ALL: &'static [TableId] = &[$(TableId::$table),*];

            /// What the schema says of this table.
            pub fn spec(self) -> &'static TableSpec {
                &TABLES[self as usize]
            }
        }

        /// What the schema says of each table, in the order of [`TableId`].
        static TABLES: [TableSpec; TableId::ALL.len()] = [$(TableSpec {
            id: TableId::$table,
            name: $name,
            fields: {
                const PARTS: &[(&str, &[FieldSpec], Option<Format>)] = &[$((
                    stringify!($field),
                    <$type as Part>::FIELDS,
                    declare::override_of!($($format)?),
                )),*];
                static FIELDS: [FieldSpec; declare::count(PARTS)] = declare::fields(PARTS);
                &FIELDS
            },
            actions: &[$(ActionId::$action),+],
            default: (ActionId::$default, [0; 4]),
        }),*];

        $(
            #[doc = concat!("A key of `", $name, "`:")]
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
            #[allow(missing_docs)] // The types say it.
            pub struct $view { $(pub $field: $type),* }

            impl $view {
                /// Reads a key of this table.
                #[allow(unused_assignments)]
                pub fn of(key: &Key) -> Self {
                    let mut rest = key.fields();
                    Self { $($field: {
                        let part = <$type as Part>::read(rest);
                        rest = rest.get(<$type as Part>::FIELDS.len()..).unwrap_or_default();
                        part
                    }),* }
                }

                /// The key with these fields.
                pub fn key(self) -> Key {
                    let mut key = Key::new([]);
                    $(self.$field.write(&mut key.0);)*
                    key
                }
            }

            declare::constructor! {
                concat!("Key of \
                    `", $name, "`."), $view, key, Key, ($($field: $type),*) $($construct)?
            }
        )*
    };
}

/// ```text
/// /// doc
/// Action "name" View { /** doc */ parameter: Scalar as Format, ... } fn constructor;
/// ```
/// An action without parameters has no view. A view with `<F>` is for the classes of one family.
macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident $name:literal
    $($(#[$view_doc:meta])* $view:ident $(<$family:ident>)? {
        $($(#[$field_doc:meta])* $field:ident: $type:ty $(as $format:ident)?),*
    } $(fn $construct:ident)?)?;)*) => {
        /// The actions of all tables.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ActionId { $($(#[$doc])* $action),* }

        impl ActionId {
            /// Every action, in the order of the schema.
            pub const ALL: &'static [ActionId] = &[$(ActionId::$action),*];

            /// What the schema says of this action.
            pub fn spec(self) -> &'static ActionSpec {
                &ACTIONS[self as usize]
            }
        }

        /// What the schema says of each action, in the order of [`ActionId`].
        static ACTIONS: [ActionSpec; ActionId::ALL.len()] = [$(ActionSpec {
            id: ActionId::$action,
            name: $name,
            params: {
                // Classes of both families look alike in a table.
                $($(type $family = V4;)?)?
                const PARAMS: &[(&str, u8, Format)] = &[$($((
                    stringify!($field),
                    <$type as Scalar>::WIDTH,
                    declare::format_of!(<$type as Scalar>::FORMAT; $($format)?),
                )),*)?];
                PARAMS
            },
        }),*];

        $($(
            #[doc = concat!("The parameters of `", $name, "`.")]
            $(#[$view_doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            #[allow(missing_docs)] // The types say it.
            pub struct $view $(<$family: Ip>)? { $($(#[$field_doc])* pub $field: $type),* }

            impl$(<$family: Ip>)? $view$(<$family>)? {
                /// Reads the parameters of an entry that has this action.
                pub fn of(entry: &Entry) -> Self {
                    let mut params = entry.params.iter().map(|p| Value::from(*p));
                    Self { $($field: <$type as Scalar>::of(params.next().unwrap_or_default())),* }
                }

                /// The entry with these parameters, without origins.
                pub fn entry(self) -> Entry {
                    let params = declare::padded([$(Scalar::value(self.$field).low()),*]);
                    Entry::new(ActionId::$action, params)
                }
            }

            declare::constructor! {
                concat!("Entry with \
                    `", $name, "`."), $view, entry, Entry, ($($field: $type),*) $($construct)?
            }
        )?)*
    };
}

pub(super) use {actions, constructor, format_of, override_of, tables};
