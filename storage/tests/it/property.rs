//! The log against a plain model, over random changes and restarts.

use proptest::prelude::*;

use pontoon_types::GroupId;

use crate::harness::{Bench, entry_id};
use crate::model::{Change, Model};

#[derive(Clone, Debug)]
enum Action {
    Change(Change),
    Flush,
    Idle,
    Reopen,
}

fn change() -> impl Strategy<Value = Change> {
    let group = || 1..=4_u64;
    prop_oneof![
        2 => group().prop_map(|group| Change::Create { group }),
        1 => group().prop_map(|group| Change::Drop { group }),
        10 => (group(), 1..=12_u64, 0..=5000_usize)
            .prop_map(|(group, count, length)| Change::Append { group, back: 0, count, length }),
        4 => (group(), 1..=8_u64, 1..=8_u64)
            .prop_map(|(group, back, count)| Change::Append { group, back, count, length: 0 }),
        1 => (group(), 0..=5_u64).prop_map(|(group, back)| Change::Truncate { group, back }),
        3 => (group(), proptest::option::of(1..=5_u64))
            .prop_map(|(group, vote)| Change::HardState { group, vote }),
        4 => (group(), 0..=6_u64).prop_map(|(group, keep)| Change::Compact { group, keep }),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        20 => change().prop_map(Action::Change),
        10 => Just(Action::Flush),
        2 => Just(Action::Idle),
        1 => Just(Action::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
    fn a_log_holds_what_a_plain_model_holds(
        actions in proptest::collection::vec(action(), 1..150),
    ) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        let mut durable = Model::default();
        for action in actions {
            match action {
                Action::Change(change) => model.apply(&mut bench.log, &change, |_, _| {}),
                Action::Flush => {
                    bench.flush();
                    durable = model.clone();
                }
                Action::Idle => {
                    bench.idle();
                }
                Action::Reopen => {
                    bench = bench.reopen();
                    model = durable.clone();
                    prop_assert_eq!(&Model::of(&mut bench), &model);
                }
            }
            for (id, group) in &model.groups {
                let (last, term) = group.last();
                prop_assert_eq!(bench.log.last(GroupId(*id)), Some(entry_id(last, term)));
                let expected = group.entries.get(&last).cloned();
                prop_assert_eq!(bench.entry(*id, last), expected);
                if let Some((first, entry)) = group.entries.first_key_value() {
                    prop_assert_eq!(bench.entry(*id, *first), Some(entry.clone()));
                }
            }
        }
        bench.flush();
        let mut bench = bench.reopen();
        prop_assert_eq!(&Model::of(&mut bench), &model);
        prop_assert!(bench.recovery.groups.iter().all(|group| !group.tainted));
    }
}
