//! Patterns of names in DNS and of nodes, in which `*` stands for any part of a name.
//!
//! Not here: the beginnings of names that find pods and Services ([`super::end`]).

/// A pattern of names in DNS.
#[derive(Clone, Debug)]
pub struct Name(String);

impl Name {
    /// Reads a pattern; case and a dot at the end make no difference.
    ///
    /// # Errors
    /// It is empty, or has characters that no name has.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let known = |c: char| matches!(c, '.' | '*' | '-' | '_' | '0'..='9' | 'a'..='z');
        if text.is_empty() || text.ends_with('.') || !text.chars().all(known) {
            return Err("a pattern consists of letters, digits, '-', '_', '.' and '*'".into());
        }
        Ok(Self(text))
    }

    /// Is this such a name?
    pub fn fits(&self, name: &str) -> bool {
        // As usual: at the last star, one more byte is tried whenever what follows does not fit.
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut read, mut star) = (0, 0, None);
        while read < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, read));
                    at += 1;
                }
                Some(byte) if *byte == name[read] => {
                    at += 1;
                    read += 1;
                }
                _ => match star {
                    Some((before, from)) if is_of_name(name[from]) => {
                        star = Some((before, from + 1));
                        (at, read) = (before + 1, from + 1);
                    }
                    _ => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

/// What a star stands for.
fn is_of_name(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z')
}

/// A pattern of nodes, as `cluster/node`; a part that is empty or left out may be anything.
#[derive(Clone, Debug)]
pub struct Node {
    cluster: Option<Name>,
    node: Option<Name>,
}

impl Node {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is empty, has too many parts, or a part is no pattern.
    pub fn read(text: &str) -> Result<Self, String> {
        let (cluster, node) = text.split_once('/').unwrap_or(("", text));
        if text.is_empty() || node.contains('/') {
            return Err("write NODE, CLUSTER/NODE or CLUSTER/".into());
        }
        let part = |text: &str| (!text.is_empty()).then(|| Name::read(text)).transpose();
        Ok(Self { cluster: part(cluster)?, node: part(node)? })
    }

    /// Is this, as `cluster/node`, such a node?
    pub fn fits(&self, name: &str) -> bool {
        let Some((cluster, node)) = name.split_once('/') else { return false };
        let part = |pattern: &Option<Name>, name| {
            pattern.as_ref().is_none_or(|pattern| pattern.fits(name))
        };
        part(&self.cluster, cluster) && part(&self.node, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_part() {
        for (pattern, name, fits) in [
            ("n1", "n1", true),
            ("n1", "n12", false),
            ("N1.", "n1", true),
            ("n*", "n1.example.com", true),
            ("*.example.com", "n1.example.com", true),
            ("*.example.com", "example.com", false),
            ("*a*b", "xaxxbxb", true),
            ("*a*b", "xaxxbx", false),
            ("n*", "n_1", false),
            ("n**", "n", true),
            ("*", "", true),
        ] {
            assert_eq!(Name::read(pattern).unwrap().fits(name), fits, "{pattern} {name}");
        }
        for wrong in ["", " ", "..", "a..", "a b", "a/b", "\u{e9}"] {
            assert!(Name::read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nodes_have_a_cluster() {
        for (pattern, name, fits) in [
            ("n1", "default/n1", true),
            ("n1", "other/n1", true),
            ("default/n*", "default/n1", true),
            ("other/n1", "default/n1", false),
            ("default/", "default/n1", true),
            ("/n1", "default/n1", true),
            ("n1", "n1", false),
        ] {
            assert_eq!(Node::read(pattern).unwrap().fits(name), fits, "{pattern} {name}");
        }
        assert!(Node::read("").is_err() && Node::read("a/b/c").is_err());
    }
}
