//! JSON for people: what fits into a line stands in one.

use serde_json::Value;

/// How many columns a line may have.
const WIDTH: usize = 100;

/// The value, with what is too long for a line spread over several.
pub(crate) fn json(value: &Value) -> String {
    let mut out = String::new();
    put(&mut out, value, 0, 0);
    out + "\n"
}

/// `used` columns of the line are taken before and behind the value.
fn put(out: &mut String, value: &Value, depth: usize, used: usize) {
    let short = line(value);
    let indent = "  ".repeat(depth + 1);
    if indent.len() + used + short.len() <= WIDTH {
        return out.push_str(&short);
    }
    let (open, close, items): (_, _, Vec<(String, &Value)>) = match value {
        Value::Array(list) => ('[', ']', list.iter().map(|item| (String::new(), item)).collect()),
        Value::Object(map) => {
            ('{', '}', map.iter().map(|(key, item)| (format!("\"{key}\": "), item)).collect())
        }
        _ => return out.push_str(&short),
    };
    out.push(open);
    for (at, (key, item)) in items.iter().enumerate() {
        out.push_str(if at == 0 { "\n" } else { ",\n" });
        out.extend([indent.as_str(), key]);
        put(out, item, depth + 1, key.len());
    }
    out.push_str(&format!("\n{}", "  ".repeat(depth)));
    out.push(close);
}

fn line(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(line).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let fields = map.iter().map(|(key, item)| format!("\"{key}\": {}", line(item)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_the_same_value() {
        let value =
            serde_json::json!({"a": vec!["a \"quoted\" word"; 9], "b": {"c": [1, null, true]}});
        let text = json(&value);
        assert!(text.lines().all(|l| l.len() <= WIDTH) && text.lines().count() > 3, "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
    }
}
