//! How many objects of a kind the server has, from a list of one of them: the metadata of a part of
//! a list says how many objects remain, and which version of the server's state it shows.
//!
//! Not here: lists of everything ([`super::feed`]).

use std::{fmt, time::Duration};

use http::{Request, Version};
use kube::Client;
use serde::Deserialize;

use super::stream::{self, Trouble};

/// How many objects there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// So many.
    Exactly(usize),
    /// So many or more: the server does not say how many.
    AtLeast(usize),
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Exactly(count) => count.fmt(f),
            Count::AtLeast(count) => write!(f, "at least {count}"),
        }
    }
}

/// What a part of a list says of the whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub count: Count,
    /// The version of the state that it shows; None where that is not a number.
    pub version: Option<u64>,
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    #[serde(default)]
    items: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    resource_version: String,
    /// Where the rest of the list begins; empty where there is none.
    #[serde(default, rename = "continue")]
    next: String,
    remaining_item_count: Option<usize>,
}

impl Part {
    fn of(text: &[u8]) -> Result<Self, serde_json::Error> {
        let List { metadata, items } = serde_json::from_slice(text)?;
        let count = match (metadata.next.is_empty(), metadata.remaining_item_count) {
            (true, _) => Count::Exactly(items.len()),
            (false, Some(more)) => Count::Exactly(items.len() + more),
            (false, None) => Count::AtLeast(items.len() + 1),
        };
        Ok(Self { count, version: metadata.resource_version.parse().ok() })
    }
}

/// Sends the request for a part of a list, the answer to which may take as long as `limit`. The
/// version is that of HTTP.
pub(super) async fn ask(
    client: &Client,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<(Version, Part), Trouble> {
    let (version, text) = stream::get(client, request, limit).await?;
    Ok((version, Part::of(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_how_many_there_are_or_that_there_are_more() {
        for (metadata, expected) in [
            ("{}", Count::Exactly(1)),
            (r#"{"continue": "", "remainingItemCount": 0}"#, Count::Exactly(1)),
            (r#"{"continue": "x", "remainingItemCount": 4}"#, Count::Exactly(5)),
            (r#"{"continue": "x"}"#, Count::AtLeast(2)),
            (r#"{"continue": "x", "remainingItemCount": null}"#, Count::AtLeast(2)),
        ] {
            let text = format!(r#"{{"metadata": {metadata}, "items": [{{"metadata": {{}}}}]}}"#);
            assert_eq!(Part::of(text.as_bytes()).unwrap().count, expected, "{metadata}");
        }
        let empty = br#"{"metadata": {"resourceVersion": "7"}}"#;
        let expected = Part { count: Count::Exactly(0), version: Some(7) };
        assert_eq!(Part::of(empty).unwrap(), expected);
        assert_eq!(Count::AtLeast(2).to_string(), "at least 2");
    }
}
