//! The packet cases, by subject. Not here: how they are run (`conformance`).

mod ageing;
mod changes;
mod connections;
mod errors;
mod fragments;
mod gated;
mod policy;
mod records;
mod services;
mod source;
mod wire;

use super::Case;

/// All packet cases.
pub fn cases() -> Vec<Case> {
    [
        policy::cases(),
        wire::cases(),
        source::cases(),
        connections::cases(),
        changes::cases(),
        ageing::cases(),
        fragments::cases(),
        errors::cases(),
        gated::cases(),
        services::cases(),
        records::cases(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn cases_have_names_of_their_own_that_begin_with_an_item() {
        let mut names = BTreeSet::new();
        for case in super::cases() {
            assert!(
                case.name.starts_with('S') && case.name[1..].starts_with(char::is_numeric),
                "{}",
                case.name
            );
            assert!(!case.steps.is_empty(), "{}", case.name);
            assert!(names.insert(case.name.clone()), "{} twice", case.name);
        }
    }

    #[test]
    fn a_kernel_takes_every_frame() {
        for case in super::cases() {
            for step in &case.steps {
                if let super::super::Step::Packet { what, frame, .. } = step {
                    assert!(crate::frame::test_run_takes(&frame.bytes), "{}: {what}", case.name);
                }
            }
        }
    }
}
