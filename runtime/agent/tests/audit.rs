//! Audits against a target in memory: what is found, what is repaired, and that an update meanwhile
//! makes a reading worthless.

mod common;

use common::{Host, Net, PODS, POLICY, cluster};
use netpolc_agent::{
    Agent,
    audit::{Audited, Differences},
};
use netpolc_table::{
    EndpointId, TableId, Write,
    schema::{Word, endpoint_key, set_policy, word_of},
};
use netpolc_target::{Damage, Error, Target as _};

/// An agent that enforces [`POLICY`] for [`PODS`].
fn agent() -> (Agent<Host, Net>, Host) {
    let host = Host::new();
    let mut agent = Agent::new("n1".into(), host.clone(), Net).unwrap();
    assert!(agent.audit().is_none(), "there is nothing to compare before the first update");
    agent.update(cluster(&[PODS, POLICY].concat())).unwrap();
    (agent, host)
}

fn audited(agent: &Agent<Host, Net>) -> Audited {
    let (version, reader) = agent.audit().unwrap();
    agent.audited(version, &reader())
}

/// Opens the isolated pod behind the agent's back, and returns its endpoint and word.
fn open(host: &Host) -> (EndpointId, Word) {
    let program = host.program();
    let entries = &program.table(TableId::Endpoint).entries;
    let isolates = |word: &Word| word.flags & Word::INGRESS != 0;
    let words = entries.iter().map(|(key, entry)| (key, word_of(entry)));
    let (key, word) = words.into_iter().find(|(_, word)| isolates(word)).unwrap();
    let endpoint = netpolc_table::schema::EndpointKey::of(key).endpoint;
    let flags = word.flags & !Word::INGRESS;
    let entry = set_policy(Word { flags, ..word });
    host.clone().write(&Write::put(TableId::Endpoint, endpoint_key(endpoint), entry)).unwrap();
    (endpoint, word)
}

#[test]
fn a_changed_entry_is_named_and_repaired() {
    let (mut agent, host) = agent();
    let before = host.program();
    assert_eq!(audited(&agent), Audited::Sound);
    open(&host);
    let Audited::Differs(Differences { count: 1, first }) = audited(&agent) else {
        panic!("{:?}", audited(&agent))
    };
    assert!(first[0].starts_with("table endpoint: ") && first[0].contains(" instead of "));
    let report = agent.mend(Damage::Differs).unwrap();
    assert!(report.writes > 0 && host.program() == before);
    assert_eq!(audited(&agent), Audited::Sound);
    assert_eq!(agent.retry().unwrap().writes, 0, "nothing is left to do");
}

#[test]
fn an_update_during_the_reading_discards_the_result() {
    let (mut agent, host) = agent();
    let (version, reader) = agent.audit().unwrap();
    let held = reader();
    assert_eq!(agent.audited(version, &held), Audited::Sound);
    // An update that changes nothing is none.
    agent.update(cluster(&[PODS, POLICY].concat())).unwrap();
    assert_eq!(agent.audited(version, &held), Audited::Sound);
    agent.update(cluster(&[PODS, POLICY].concat().replace("6379", "6380"))).unwrap();
    assert_eq!(agent.audited(version, &held), Audited::Outdated);
    // Neither does an error mean anything then.
    let error = || Err(Error::Installed("a slot points to no block".into()));
    assert_eq!(agent.audited(version, &error()), Audited::Outdated);
    assert_eq!(audited(&agent), Audited::Sound);
    let (version, _) = agent.audit().unwrap();
    assert!(matches!(agent.audited(version, &error()), Audited::Unreadable(_)));
    // A repair is an update too.
    open(&host);
    agent.mend(Damage::Differs).unwrap();
    assert_eq!(agent.audited(version, &held), Audited::Outdated);
}
