//! A second of the fuzz target over mutated manifests, seeded, so that it is the same every time.

use std::time::{Duration, Instant};

use netpolc_kube_sync::fuzz_decode;

const SEEDS: [&str; 5] = [
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  namespace: \
     m\nspec:\n  podSelector:\n    matchLabels: {role: db}\n    matchExpressions:\n    - {key: a, \
     operator: In, values: [x, 'y']}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  - from:\n    \
     - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}\n    - namespaceSelector: \
     {matchLabels: {project: x}}\n    - podSelector: {}\n    ports:\n    - {protocol: TCP, port: \
     6379, endPort: 6400}\n    - port: web\n  egress:\n  - to: [{ipBlock: {cidr: '::/0'}}]\n---\n",
    r#"{"kind":"List","apiVersion":"v1","items":[{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","labels":{"a":"b"}},"spec":{"containers":[{"ports":[{"containerPort":80,"name":"web"}]}]},"status":{"podIPs":[{"ip":"10.0.0.1"}]}},{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","metadata":{"name":"p"},"spec":{"podSelector":{},"egress":[{"to":[]}]}}]}"#,
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w, namespace: m}\nspec:\n  replicas: \
     1\n  template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, ports: \
     [{name: h, containerPort: 80}]}]}\n---\nkind: Service\nmetadata: {name: s, namespace: \
     m}\nspec: {selector: {a: b}, ports: [{port: 80, targetPort: h}]}\n---\napiVersion: \
     discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s-1, namespace: m, labels: \
     {kubernetes.io/service-name: s}}\nports: [{port: 80}]\nendpoints: [{addresses: \
     [10.0.0.1]}]\n",
    "base: &b {kind: NetworkPolicy, apiVersion: networking.k8s.io/v1}\n<<: *b\nmetadata: {name: \
     q}\nspec: {podSelector: {}, ingress: [{}]}\n",
    "kind: Node\nmetadata: {name: m}\nstatus: {addresses: [{type: InternalIP, address: \
     10.0.0.1}]}\n--- \nkind: Namespace\nmetadata: {name: m, labels: {a: |\n  b\n  }}\n",
];

const TOKENS: [&str; 24] = [
    "null",
    "{}",
    "[]",
    ": ",
    "- ",
    "\n---\n",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "*b",
    "&b ",
    "<<: ",
    "\n",
    "  ",
    "to",
    "from",
    "policyTypes",
    "Egress",
    "\u{feff}",
    "!!str ",
    "|\n",
];

#[test]
fn s61_mutated_manifests_never_panic_and_never_open() {
    let mut seed = 1_u64;
    let mut next = move |bound: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % bound.max(1)
    };
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut runs = 0;
    while Instant::now() < deadline && runs < 100_000 {
        let mut bytes = SEEDS[next(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..1 + next(4) {
            let at = next(bytes.len() + 1);
            match next(5) {
                0 => drop(bytes.drain(at..(at + 1 + next(12)).min(bytes.len()))),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => bytes[at] = next(256) as u8,
                3 => {
                    let other = SEEDS[next(SEEDS.len())].as_bytes();
                    let from = next(other.len());
                    let part = &other[from..(from + next(40)).min(other.len())];
                    bytes.splice(at..at, part.iter().copied());
                }
                _ => drop(bytes.splice(at..at, TOKENS[next(TOKENS.len())].bytes())),
            }
        }
        fuzz_decode(&bytes);
        runs += 1;
    }
    assert!(runs > 100, "only {runs} runs");
}
