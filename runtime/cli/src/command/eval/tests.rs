//! Answers line by line.

use super::{probe::tests::cluster, *};

#[test]
fn a_bad_line_is_answered_by_an_error_and_the_others_are_answered() {
    let (cluster, frontends) = (cluster(), Frontends::new());
    let asked = Asked { cluster: &cluster, shadow: None, frontends: &frontends };
    let mut judge = Oracle::new(&cluster);
    let probes =
        b"{\"src\":\"shop/ui\",\"dst\":\"shop/carts\",\"port\":80,\"note\":1}\n\nnonsense\n[]\n\
                   {\"src\":\"shop/ui\",\"dst\":\"shop/carts\",\"proto\":\"icmp\"}";
    let mut out = Vec::new();
    let outcome = answer_all(asked, &mut judge, &probes[..], &mut out).unwrap();
    assert_eq!(outcome, Outcome::Problems);
    assert!(out.starts_with(
        b"{\"src\":\"shop/ui\",\"dst\":\"shop/carts\",\"port\":80,\"note\":1,\"allowed\":true,"
    ));
    let lines: Vec<Value> =
        out.lines().map(|l| serde_json::from_str(&l.unwrap()).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[0]["allowed"], &lines[0]["note"]), (&json!(true), &json!(1)));
    assert_eq!(lines[0]["egress"]["reason"], json!("notIsolated"));
    assert_eq!((&lines[1]["line"], &lines[2]["line"]), (&json!(3), &json!(4)));
    assert_eq!(lines[3]["allowed"], json!(true));
}
