//! Converts watched objects by the same strict conversion as files: one object at a time, with
//! strings shared among all objects that are in use.

use netpolc_policy::ObjectKey;
use serde::Deserialize;

use crate::{
    Object, Problem,
    decode::item,
    intern::Interner,
    object::ItemType,
    problem::Problems,
    source::{Origin, Reader, Source},
};

use super::raw::Raw;
use crate::Resource;

/// One converted object.
#[derive(Debug)]
pub(crate) struct Item {
    pub key: ObjectKey,
    /// None where too little of the object can be understood.
    pub object: Option<Object>,
    pub problems: Vec<Problem>,
    /// The object's metadata.generation; None for kinds that have none.
    pub generation: Option<i64>,
}

/// The name of the source in messages, in place of a file.
pub(super) const SOURCE: &str = "kubernetes";

/// The part of a SecurityGroup that says which group it is.
#[derive(Deserialize)]
struct Group {
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    id: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Converter {
    interner: Interner,
}

impl Converter {
    /// The key of a raw object, which is all that matters of a deleted one. A security group is
    /// known by the id that the cloud has given it.
    pub fn key(&mut self, resource: Resource, raw: &Raw) -> ObjectKey {
        if resource == Resource::Group {
            let group = serde_json::from_str::<Group>(raw.json.get()).ok();
            let id = group.and_then(|group| group.status?.id).unwrap_or_default();
            return ObjectKey::new("", id);
        }
        let part = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
        let namespace = self.interner.string(&part(&raw.meta.namespace));
        ObjectKey::new(namespace, part(&raw.meta.name))
    }

    pub fn convert(&mut self, resource: Resource, api_version: &str, raw: &Raw) -> Item {
        let key = self.key(resource, raw);
        self.interner.tidy();
        let text = raw.json.get();
        let source = Source::new(SOURCE.into(), text.as_bytes());
        let (mut problems, mut found) = (Problems::default(), None);
        let mut reader = Reader::new(&source, &mut problems, &mut self.interner);
        reader.origin = Origin::Server;
        let fields = serde_json::from_str(text).ok();
        let item_type = ItemType { kind: resource.kind(), api_version: Some(api_version) };
        item(&mut reader, text, text, fields, Some(item_type), &mut |_, object, _| {
            found = Some(object)
        });
        let problems = problems.into_list();
        Item { key, object: found, problems, generation: raw.meta.generation }
    }
}
