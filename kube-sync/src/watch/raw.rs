//! An object as it was received: its JSON, and the part of its metadata that watching needs. There
//! is one type for all kinds, so that nothing in an object can make a whole list or watch
//! unreadable (S61). It is converted and dropped before the next page is requested. Not here: the
//! conversion ([`super::convert`]).

use std::borrow::Cow;

use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::Str;

/// An object that is not converted yet.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// The fields name, namespace, uid, resourceVersion and generation of its metadata; the others
    /// are empty.
    pub meta: ObjectMeta,
    pub json: Box<RawValue>,
}

/// The part of an object that every kind has.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<Str<'a>>,
    #[serde(borrow)]
    namespace: Option<Str<'a>>,
    #[serde(borrow)]
    uid: Option<Str<'a>>,
    #[serde(borrow)]
    resource_version: Option<Str<'a>>,
    generation: Option<i64>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(from)?;
        let text = |text: Option<Str>| text.map(|t| t.0.into_owned());
        // The converter reports whatever is wrong here.
        let head = serde_json::from_str::<Head>(json.get()).ok().and_then(|head| head.metadata);
        let meta = head.map_or_else(ObjectMeta::default, |head| ObjectMeta {
            name: text(head.name),
            namespace: text(head.namespace),
            uid: text(head.uid),
            resource_version: text(head.resource_version),
            generation: head.generation,
            ..ObjectMeta::default()
        });
        Ok(Raw { meta, json })
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.kind)
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.group)
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.version)
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.api_version)
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    /// S61: an object that is odd in every part is still an object among others.
    #[test]
    fn s61_lists_and_watches_take_whatever_an_object_is() {
        let list = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[
            {"metadata":{"name":"a","namespace":"x","resourceVersion":"3"},"spec":{"nodeName":[1.50]}},
            {"metadata":[]}, {"metadata":{"name":7}}, null, 5]}"#;
        let list: ObjectList<Raw> = serde_json::from_str(list).unwrap();
        assert_eq!(list.items.len(), 5);
        assert_eq!(list.items[0].meta.name.as_deref(), Some("a"));
        assert!(list.items[0].json.get().contains("1.50"));
        let event = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"9"},"spec":"?"}}"#;
        let Ok(WatchEvent::Modified(object)) = serde_json::from_str::<WatchEvent<Raw>>(event)
        else {
            panic!()
        };
        assert_eq!(object.meta.resource_version.as_deref(), Some("9"));
    }
}
