//! Where flows and metrics are sent: an endpoint, and the headers of each request.
//!
//! Options and environment variables are read by whoever starts an agent. Not here: the
//! certificates of https, which are the system's.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri};

use super::Timing;

/// The paths of OTLP over HTTP, which are not part of an endpoint.
const PATHS: [&str; 3] = ["/v1/logs", "/v1/metrics", "/v1/traces"];

/// Where to send, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The base of the URLs, with a slash at its end.
    pub(super) base: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// How long what takes.
    pub timing: Timing,
}

/// Headers are often secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Config").field("base", &self.base).field("headers", &names).finish()
    }
}

impl Config {
    /// To this endpoint, such as `http://collector:4318`, with headers as `name=value,name=value`
    /// whose values are percent-encoded.
    ///
    /// # Errors
    /// One of them makes no sense; the message says what to write instead.
    pub fn read(endpoint: &str, headers: &str) -> Result<Self, String> {
        let uri: Uri =
            endpoint.parse().map_err(|error| format!("{endpoint:?} is no URL: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https"))
            || uri.host().is_none_or(str::is_empty)
        {
            return Err(format!(
                "{endpoint:?} is no URL of http or https; give one such as http://collector:4318"
            ));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("it has a password in it; give that as a header".into());
        }
        if uri.query().is_some() {
            return Err(format!("{endpoint:?} has a query; omit it"));
        }
        let base = endpoint.trim_end_matches('/');
        if let Some(path) = PATHS.into_iter().find(|path| base.ends_with(path)) {
            return Err(format!("{endpoint:?} names one kind of data; omit {path}"));
        }
        let pairs = headers.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        Ok(Self {
            base: format!("{base}/"),
            headers: pairs.map(header).collect::<Result<_, String>>()?,
            timing: Timing::default(),
        })
    }

    /// Whether requests are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.base.starts_with("https:")
    }
}

/// The message has no value in it, since values are often secrets.
fn header(pair: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) =
        pair.split_once('=').ok_or("a header has no =; write name=value, joined by commas")?;
    let name = name.trim();
    let bad = |what: &str| format!("the {what} of the header {name:?} is not valid");
    let value = decoded(value.trim()).ok_or_else(|| bad("percent-encoding"))?;
    let parsed: HeaderName = name.parse().map_err(|_| bad("name"))?;
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| bad("value"))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(others.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &others[2..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_and_headers_are_decoded_and_secret() {
        let config =
            Config::read("https://c.example:4318/otlp/", "Authorization=Basic%20eA==, x=1")
                .unwrap();
        assert_eq!(config.base, "https://c.example:4318/otlp/");
        assert_eq!(config.headers[0].1, "Basic eA==");
        assert!(config.is_encrypted());
        let shown = format!("{config:?}");
        assert!(shown.contains("authorization") && !shown.contains("eA"), "{shown}");
        for (endpoint, headers, why) in [
            ("collector:4318", "", "such as http://collector:4318"),
            ("ftp://c", "", "such as http://collector:4318"),
            ("http://c/v1/logs", "", "omit /v1/logs"),
            ("http://c?x=1", "", "has a query"),
            ("http://u:p@c", "", "give that as a header"),
            ("http://c", "token", "write name=value"),
            ("http://c", "a b=1", "the name of the header \"a b\""),
            ("http://c", "a=%0a", "the value of the header \"a\""),
            ("http://c", "a=%zz", "the percent-encoding of the header \"a\""),
        ] {
            let error = Config::read(endpoint, headers).unwrap_err();
            assert!(error.contains(why), "{endpoint} {headers}: {error}");
        }
    }
}
