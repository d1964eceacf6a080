//! The maps in an object's metadata, decoded from JSON for the fast path (`typed`): labels, and the
//! annotations that are read.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use crate::{annotation, groups::pod, json::Str};

/// The annotations that are read. One that is no string, or occurs twice, is an error.
#[derive(Default)]
pub(crate) struct Annotations<'a> {
    pub eni: Option<Str<'a>>,
    pub fargate: Option<Str<'a>>,
    pub isolate_by_default: Option<Str<'a>>,
    pub lint_allow: Option<Str<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Annotations<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AnnotationsVisitor;
        impl<'de> Visitor<'de> for AnnotationsVisitor {
            type Value = Annotations<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Annotations<'de>, A::Error> {
                let mut found = Annotations::default();
                while let Some(Str(name)) = map.next_key()? {
                    let place = match &*name {
                        pod::ENI => &mut found.eni,
                        pod::FARGATE => &mut found.fargate,
                        annotation::ISOLATE_BY_DEFAULT => &mut found.isolate_by_default,
                        annotation::LINT_ALLOW => &mut found.lint_allow,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if place.replace(map.next_value()?).is_some() {
                        return Err(A::Error::custom("given twice"));
                    }
                }
                Ok(found)
            }
        }
        from.deserialize_map(AnnotationsVisitor)
    }
}

/// Labels in the order of the input. A value that is not a string is an error, and so is a key that
/// occurs twice.
pub(crate) struct Pairs<'a>(pub Vec<(Str<'a>, Str<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs: Vec<(Str, Str)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| &*key.0).collect();
                keys.sort_unstable();
                if keys.windows(2).any(|two| two[0] == two[1]) {
                    return Err(A::Error::custom("given twice"));
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(PairsVisitor)
    }
}
