//! A second of what `cargo fuzz` does for hours, on the same functions: files of the corpus with
//! random damage.

use std::time::{Duration, Instant};

use netpolc_testbed::{cases, random::Rng};

/// Damages `bytes` at up to four places: bytes changed, cut, doubled, or taken from elsewhere.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.within(1, 4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.below(bytes.len());
        let end = (at + rng.within(1, 40)).min(bytes.len());
        match rng.below(6) {
            0 => bytes[at] = rng.draw() as u8,
            1 => bytes[at] = *rng.pick(b"{}[]:,-\"'\n #&*!|>0"),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 => bytes.truncate(end),
            _ => {
                let from = rng.below(other.len());
                let part = &other[from..(from + 60).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
        }
    }
}

#[test]
fn s61_damaged_objects_never_widen_and_never_panic() {
    let inputs: Vec<Vec<u8>> = cases::all()
        .into_iter()
        .flat_map(|c| c.inputs)
        .map(|(_, text)| text.into_bytes())
        .collect();
    let (mut rng, begin, mut runs) = (Rng::new(61), Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(1) {
        let (mut bytes, other) = (rng.pick(&inputs).clone(), rng.pick(&inputs).clone());
        damage(&mut rng, &mut bytes, &other);
        netpolc_kube_sync::fuzz_decode(&bytes);
        runs += 1;
    }
    println!("{runs} inputs");
}
