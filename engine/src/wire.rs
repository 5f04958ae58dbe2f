//! How a message of the core becomes a head on the wire, and back.

use pontoon_raft::{AppendOutcome, GroupId, LogIndex, Message, Term, VoteKind};
use pontoon_transport::Head;

const REQUEST_VOTE: u8 = 1;
const VOTE_RESPONSE: u8 = 2;
const APPEND_ENTRIES: u8 = 3;
const APPEND_RESPONSE: u8 = 4;
const TIMEOUT_NOW: u8 = 5;
const REPAIRED: u8 = 6;

/// The vote was given, or the logs matched.
const FLAG_YES: u8 = 1;
/// The follower's disk lost something durable.
const FLAG_TAINTED: u8 = 2;
const KIND_SHIFT: u8 = 1;

/// The head that says this about a group.
pub(crate) fn head(group: GroupId, message: &Message) -> Head {
    let head = Head {
        group: group.0,
        term: message.term().0,
        ..Head::default()
    };
    match *message {
        Message::RequestVote {
            last_log_index,
            last_log_term,
            kind,
            ..
        } => Head {
            kind: REQUEST_VOTE,
            flags: vote_kind_bits(kind) << KIND_SHIFT,
            index: last_log_index.0,
            log_term: last_log_term.0,
            ..head
        },
        Message::VoteResponse { granted, kind, .. } => Head {
            kind: VOTE_RESPONSE,
            flags: u8::from(granted) | vote_kind_bits(kind) << KIND_SHIFT,
            ..head
        },
        Message::AppendEntries {
            prev_log_index,
            prev_log_term,
            count,
            leader_commit,
            round,
            replicated_everywhere,
            ..
        } => Head {
            kind: APPEND_ENTRIES,
            count,
            index: prev_log_index.0,
            log_term: prev_log_term.0,
            commit: leader_commit.0,
            round,
            everywhere: replicated_everywhere.0,
            ..head
        },
        Message::AppendResponse {
            round,
            outcome,
            incarnation,
            tainted,
            ..
        } => {
            let head = append_response(head, round, outcome);
            Head {
                flags: head.flags | if tainted { FLAG_TAINTED } else { 0 },
                everywhere: incarnation,
                ..head
            }
        }
        Message::Repaired { incarnation, .. } => Head {
            kind: REPAIRED,
            index: incarnation,
            ..head
        },
        Message::TimeoutNow { .. } => Head {
            kind: TIMEOUT_NOW,
            ..head
        },
    }
}

fn append_response(head: Head, round: u64, outcome: AppendOutcome) -> Head {
    let head = Head {
        kind: APPEND_RESPONSE,
        round,
        ..head
    };
    match outcome {
        AppendOutcome::Accepted { match_index } => Head {
            flags: FLAG_YES,
            index: match_index.0,
            ..head
        },
        AppendOutcome::Rejected {
            prev_log_index,
            hint_index,
            hint_term,
        } => Head {
            index: prev_log_index.0,
            commit: hint_index.0,
            log_term: hint_term.0,
            ..head
        },
    }
}

/// What a head says; `None` if that is nothing this version knows.
pub(crate) fn message(head: &Head) -> Option<Message> {
    let term = Term(head.term);
    let yes = head.flags & FLAG_YES != 0;
    if head.kind != APPEND_ENTRIES && head.count != 0 {
        return None;
    }
    Some(match head.kind {
        REQUEST_VOTE => Message::RequestVote {
            term,
            last_log_index: LogIndex(head.index),
            last_log_term: Term(head.log_term),
            kind: vote_kind(head.flags >> KIND_SHIFT)?,
        },
        VOTE_RESPONSE => Message::VoteResponse {
            term,
            granted: yes,
            kind: vote_kind(head.flags >> KIND_SHIFT)?,
        },
        APPEND_ENTRIES => Message::AppendEntries {
            term,
            prev_log_index: LogIndex(head.index),
            prev_log_term: Term(head.log_term),
            count: head.count,
            leader_commit: LogIndex(head.commit),
            round: head.round,
            replicated_everywhere: LogIndex(head.everywhere),
        },
        APPEND_RESPONSE => Message::AppendResponse {
            term,
            round: head.round,
            outcome: if yes {
                AppendOutcome::Accepted {
                    match_index: LogIndex(head.index),
                }
            } else {
                AppendOutcome::Rejected {
                    prev_log_index: LogIndex(head.index),
                    hint_index: LogIndex(head.commit),
                    hint_term: Term(head.log_term),
                }
            },
            incarnation: head.everywhere,
            tainted: head.flags & FLAG_TAINTED != 0,
        },
        REPAIRED => Message::Repaired {
            term,
            incarnation: head.index,
        },
        TIMEOUT_NOW => Message::TimeoutNow { term },
        _ => return None,
    })
}

fn vote_kind_bits(kind: VoteKind) -> u8 {
    match kind {
        VoteKind::PreVote => 0,
        VoteKind::Vote => 1,
        VoteKind::Transfer => 2,
    }
}

fn vote_kind(bits: u8) -> Option<VoteKind> {
    match bits {
        0 => Some(VoteKind::PreVote),
        1 => Some(VoteKind::Vote),
        2 => Some(VoteKind::Transfer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_back(message: Message) {
        let head = head(GroupId(9), &message);
        assert_eq!(head.group, 9);
        assert_eq!(super::message(&head), Some(message));
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        let term = Term(5);
        for kind in [VoteKind::PreVote, VoteKind::Vote, VoteKind::Transfer] {
            comes_back(Message::RequestVote {
                term,
                last_log_index: LogIndex(3),
                last_log_term: Term(2),
                kind,
            });
            for granted in [false, true] {
                comes_back(Message::VoteResponse {
                    term,
                    granted,
                    kind,
                });
            }
        }
        comes_back(Message::AppendEntries {
            term,
            prev_log_index: LogIndex(1),
            prev_log_term: Term(2),
            count: 3,
            leader_commit: LogIndex(4),
            round: 6,
            replicated_everywhere: LogIndex(7),
        });
        let rejected = AppendOutcome::Rejected {
            prev_log_index: LogIndex(1),
            hint_index: LogIndex(2),
            hint_term: Term(3),
        };
        let accepted = AppendOutcome::Accepted {
            match_index: LogIndex(8),
        };
        for outcome in [rejected, accepted] {
            comes_back(Message::AppendResponse {
                term,
                round: 4,
                outcome,
                incarnation: 5,
                tainted: outcome == accepted,
            });
        }
        comes_back(Message::TimeoutNow { term });
        let incarnation = 6;
        comes_back(Message::Repaired { term, incarnation });
    }

    #[test]
    fn heads_of_unknown_kinds_or_with_records_out_of_place_say_nothing() {
        let unknown = Head {
            kind: 200,
            ..Head::default()
        };
        let misplaced = Head {
            kind: TIMEOUT_NOW,
            count: 1,
            ..Head::default()
        };
        let vote = Head {
            kind: REQUEST_VOTE,
            flags: 0xff,
            ..Head::default()
        };
        for head in [unknown, misplaced, vote] {
            assert_eq!(message(&head), None);
        }
    }
}
