//! Threads that ask while the core ends: everybody is answered.

use std::sync::Barrier;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::group::Group;
use crate::outcome::{ProposeError, Unknown};
use crate::request::GroupStatus;

/// So often the end of a core meets its callers in the middle of a call.
const ROUNDS: usize = 300;
const CALLERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

const LIMITS: InboxLimits = InboxLimits {
    proposals_max: 8,
    bytes_max: 64 << 10,
    replies_bytes_max: 16 << 10,
    command_bytes_max: 1 << 10,
};

fn new_channel() -> (CoreHandle, Inbox) {
    let doorbell = Arc::new(Doorbell::new().expect("a descriptor"));
    channel(NodeId(1), doorbell, LIMITS)
}

impl CoreHandle {
    fn status(&self) -> Pending<Result<GroupStatus, RequestError>> {
        let group = GroupId(1);
        self.request(|reply| Request::Status { group, reply })
    }
}

/// Proposes and asks until told that the core has ended.
fn call_until_ended(core: &CoreHandle) {
    loop {
        let proposal = Group::new(GroupId(1), core.clone()).propose(vec![1]);
        let status = core.status();
        let refusal = status.wait().expect_err("nobody has answered");
        assert!(matches!(
            refusal,
            RequestError::Stopped | RequestError::Overloaded
        ));
        match proposal.wait() {
            Err(ProposeError::Rejected(Rejection::Stopped)) => return,
            Err(ProposeError::Rejected(Rejection::Overloaded { .. })) => {}
            Err(ProposeError::Unknown(Unknown::Stopped)) => {}
            outcome => panic!("nobody could have said {outcome:?}"),
        }
    }
}

#[test]
fn whoever_asks_while_the_core_ends_is_answered() {
    for round in 0..ROUNDS {
        let (core, inbox) = new_channel();
        let begin = Arc::new(Barrier::new(CALLERS + 1));
        let (done, ended) = mpsc::channel();
        for _ in 0..CALLERS {
            let (core, begin, done) = (core.clone(), Arc::clone(&begin), done.clone());
            std::thread::spawn(move || {
                begin.wait();
                call_until_ended(&core);
                let _ = done.send(());
            });
        }
        begin.wait();
        // The last look, and the end right after it.
        inbox.take_proposals(1, drop);
        drop(inbox.next_request());
        drop(inbox);
        for _ in 0..CALLERS {
            let answered = ended.recv_timeout(PATIENCE);
            assert!(answered.is_ok(), "a caller waits for ever in round {round}");
        }
    }
}

#[test]
fn what_was_sent_after_the_last_look_is_answered_although_the_core_was_there_when_it_was_asked() {
    let (core, inbox) = new_channel();
    let channels = core.channels.get().expect("no fork");
    let permit = channels.budget.take(1).expect("the budget is whole");
    // Both callers have looked whether the core is there; it ends before they go on.
    drop(inbox);
    let mut proposal = channels.enqueue_proposal(GroupId(1), vec![7], permit);
    let (reply, answer) = oneshot::channel();
    let group = GroupId(1);
    let place = channels.places.take(1).expect("nobody waits");
    channels.enqueue_request(Request::Status { group, reply }, place);
    let rejected = Some(Err(Rejection::Stopped.into()));
    assert_eq!(proposal.wait_timeout(Duration::ZERO), rejected);
    assert_eq!(
        proposal.into_rejected(),
        Some(vec![7]),
        "the command comes back"
    );
    assert!(answer.try_recv().is_err(), "its sender was dropped");
    assert!(answer.is_closed());
}

#[test]
fn requests_beyond_the_limit_are_answered_at_once_and_the_end_has_a_place_of_its_own() {
    let (core, inbox) = new_channel();
    let mut waiting: Vec<_> = (0..REQUESTS_MAX).map(|_| core.status()).collect();
    let refused = Err(RequestError::Overloaded);
    assert_eq!(core.status().wait(), refused);
    let mut first = waiting.remove(0);
    assert_eq!(first.wait_timeout(Duration::ZERO), None);
    assert!(!inbox.is_told_to_stop());
    core.stop();
    assert!(inbox.is_told_to_stop());
    inbox.close(CoreEnd::Failed);
    assert_eq!(first.wait(), Err(RequestError::Failed));
    assert_eq!(core.status().wait(), Err(RequestError::Failed));
    let proposal = Group::new(GroupId(1), core.clone()).propose(vec![1]).wait();
    assert_eq!(proposal, Err(Rejection::Failed.into()));
}

/// A calm group of the same core was told `Overloaded`, however little it had waiting.
#[test]
fn floods_of_some_groups_leave_a_calm_one_its_places() {
    for (floods, bytes) in [(1, 0), (1, 1 << 10), (5, 0), (5, 1 << 10)] {
        let doorbell = Arc::new(Doorbell::new().expect("a descriptor"));
        let limits = InboxLimits {
            proposals_max: 256,
            bytes_max: 128 << 10,
            ..LIMITS
        };
        let (core, inbox) = channel(NodeId(1), doorbell, limits);
        let groups: Vec<_> = (0..=floods)
            .map(|id| Group::new(GroupId(id), core.clone()))
            .collect();
        let (calm, flooding) = groups.split_last().expect("there are some");
        for _ in 0..300 {
            for group in flooding {
                drop(group.propose(vec![7; bytes]));
            }
        }
        let mut own: Vec<_> = (0..5).map(|_| calm.propose(vec![7; bytes])).collect();
        for proposal in &mut own {
            let refused = proposal.wait_timeout(Duration::ZERO);
            assert_eq!(refused, None, "{floods} floods of {bytes} bytes");
        }
        // What is taken makes room for the flooding groups too.
        inbox.take_proposals(300, drop);
        let mut again = flooding[0].propose(vec![7; bytes]);
        assert_eq!(again.wait_timeout(Duration::ZERO), None);
    }
}
