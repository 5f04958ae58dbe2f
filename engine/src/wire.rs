//! How a message of a group becomes a head on the wire, and back.

use pontoon_raft::{
    AppendEntries, AppendOutcome, AppendResponse, Body, EntryId, Founding, GroupId, LogIndex,
    LogRoom, Message, Repaired, RequestVote, Term, VoteKind, VoteResponse,
};
use pontoon_storage::Life;
use pontoon_transport::Head;

const REQUEST_VOTE: u8 = 1;
const VOTE_RESPONSE: u8 = 2;
const APPEND_ENTRIES: u8 = 3;
const APPEND_RESPONSE: u8 = 4;
const TIMEOUT_NOW: u8 = 5;
const REPAIRED: u8 = 6;
const INTRODUCTION: u8 = 7;
const RECOGNISED: u8 = 8;
const FOUNDING: u8 = 9;

/// The vote was given, or the logs matched.
const FLAG_YES: u8 = 1;
/// The follower's disk lost something durable.
const FLAG_TAINTED: u8 = 2;
/// The follower's log takes no entries at present.
const FLAG_LOG_FULL: u8 = 4;
/// The follower has no memory for entries at present.
const FLAG_SHORT: u8 = 8;
/// The follower has renounced: it can't lead.
const FLAG_RENOUNCED: u8 = 16;
/// The sender of a founding wants an answer.
const FLAG_ASKS: u8 = 2;
const KIND_SHIFT: u8 = 1;

/// What a core says of itself before anything of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Which life of its log it is in, and in which one it last met the other end.
    Introduction {
        /// Its own.
        own: Life,
        /// The other end's.
        met: Option<Life>,
    },
    /// The other end knows nothing of it that it has forgotten.
    Recognised,
}

/// The head that says so.
pub(crate) fn greeting_head(greeting: Greeting) -> Head {
    match greeting {
        Greeting::Introduction { own, met } => {
            let met = met.unwrap_or_default();
            Head {
                kind: INTRODUCTION,
                term: own.generation,
                index: own.epoch,
                log_term: own.nonce,
                second_index: met.epoch,
                round: met.nonce,
                extra: met.generation,
                ..Head::default()
            }
        }
        Greeting::Recognised => Head {
            kind: RECOGNISED,
            ..Head::default()
        },
    }
}

/// What a head says of its sender; `None` if it is a group's.
pub(crate) fn greeting(head: &Head) -> Option<Greeting> {
    if head.group != 0 || head.count != 0 {
        return None;
    }
    match head.kind {
        INTRODUCTION => {
            let own = Life {
                generation: head.term,
                epoch: head.index,
                nonce: head.log_term,
            };
            let met = Life {
                generation: head.extra,
                epoch: head.second_index,
                nonce: head.round,
            };
            let met = Some(met).filter(|met| met.generation > 0);
            Some(Greeting::Introduction { own, met })
        }
        RECOGNISED => Some(Greeting::Recognised),
        _ => None,
    }
}

/// The head that says this about a group.
pub(crate) fn head(group: GroupId, message: &Message) -> Head {
    let head = Head {
        group: group.0,
        term: message.term.0,
        ..Head::default()
    };
    match message.body {
        Body::RequestVote(request) => Head {
            kind: REQUEST_VOTE,
            flags: vote_kind_bits(request.kind) << KIND_SHIFT,
            index: request.last_log.index.0,
            log_term: request.last_log.term.0,
            ..head
        },
        Body::VoteResponse(response) => Head {
            kind: VOTE_RESPONSE,
            flags: u8::from(response.granted) | vote_kind_bits(response.kind) << KIND_SHIFT,
            ..head
        },
        Body::AppendEntries(request) => Head {
            kind: APPEND_ENTRIES,
            count: request.count,
            index: request.prev_log.index.0,
            log_term: request.prev_log.term.0,
            second_index: request.leader_commit.0,
            round: request.round,
            extra: request.replicated_everywhere.0,
            ..head
        },
        Body::AppendResponse(response) => append_response_head(head, response),
        Body::Repaired(repaired) => Head {
            kind: REPAIRED,
            index: repaired.log_epoch,
            ..head
        },
        Body::TimeoutNow => Head {
            kind: TIMEOUT_NOW,
            ..head
        },
        Body::Founding(founding) => Head {
            kind: FOUNDING,
            flags: flag(founding.founded, FLAG_YES) | flag(founding.asks, FLAG_ASKS),
            index: founding.definition,
            ..head
        },
    }
}

fn append_response_head(head: Head, response: AppendResponse) -> Head {
    let head = Head {
        kind: APPEND_RESPONSE,
        flags: flag(response.tainted, FLAG_TAINTED)
            | flag(response.renounced, FLAG_RENOUNCED)
            | room_bits(response.room),
        round: response.round,
        extra: response.log_epoch,
        ..head
    };
    match response.outcome {
        AppendOutcome::Accepted { match_index } => Head {
            flags: head.flags | FLAG_YES,
            index: match_index.0,
            ..head
        },
        AppendOutcome::Rejected {
            prev_log_index,
            hint,
        } => Head {
            index: prev_log_index.0,
            second_index: hint.index.0,
            log_term: hint.term.0,
            ..head
        },
    }
}

fn flag(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

/// What a head says; `None` if that is nothing this version knows.
pub(crate) fn message(head: &Head) -> Option<Message> {
    if head.kind != APPEND_ENTRIES && head.count != 0 {
        return None;
    }
    let body = match head.kind {
        REQUEST_VOTE => RequestVote {
            last_log: log_entry(head.index, head.log_term),
            kind: vote_kind(head.flags >> KIND_SHIFT)?,
        }
        .into(),
        VOTE_RESPONSE => VoteResponse {
            granted: head.flags & FLAG_YES != 0,
            kind: vote_kind(head.flags >> KIND_SHIFT)?,
        }
        .into(),
        APPEND_ENTRIES => AppendEntries {
            prev_log: log_entry(head.index, head.log_term),
            count: head.count,
            leader_commit: LogIndex(head.second_index),
            round: head.round,
            replicated_everywhere: LogIndex(head.extra),
        }
        .into(),
        APPEND_RESPONSE => append_response(head).into(),
        REPAIRED => Repaired {
            log_epoch: head.index,
        }
        .into(),
        TIMEOUT_NOW => Body::TimeoutNow,
        FOUNDING => Founding {
            definition: head.index,
            founded: head.flags & FLAG_YES != 0,
            asks: head.flags & FLAG_ASKS != 0,
        }
        .into(),
        _ => return None,
    };
    let term = Term(head.term);
    Some(Message { term, body })
}

fn append_response(head: &Head) -> AppendResponse {
    let outcome = if head.flags & FLAG_YES != 0 {
        AppendOutcome::Accepted {
            match_index: LogIndex(head.index),
        }
    } else {
        AppendOutcome::Rejected {
            prev_log_index: LogIndex(head.index),
            hint: log_entry(head.second_index, head.log_term),
        }
    };
    AppendResponse {
        round: head.round,
        outcome,
        log_epoch: head.extra,
        tainted: head.flags & FLAG_TAINTED != 0,
        room: room_of(head.flags),
        renounced: head.flags & FLAG_RENOUNCED != 0,
    }
}

fn room_bits(room: LogRoom) -> u8 {
    match room {
        LogRoom::Enough => 0,
        LogRoom::Short => FLAG_SHORT,
        LogRoom::Full => FLAG_LOG_FULL,
    }
}

fn room_of(flags: u8) -> LogRoom {
    if flags & FLAG_LOG_FULL != 0 {
        LogRoom::Full
    } else if flags & FLAG_SHORT != 0 {
        LogRoom::Short
    } else {
        LogRoom::Enough
    }
}

fn log_entry(index: u64, term: u64) -> EntryId {
    EntryId::new(LogIndex(index), Term(term))
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
        let comes_back = |body: Body| comes_back(Message::new(term, body));
        for kind in [VoteKind::PreVote, VoteKind::Vote, VoteKind::Transfer] {
            let last_log = log_entry(3, 2);
            comes_back(RequestVote { last_log, kind }.into());
            for granted in [false, true] {
                comes_back(VoteResponse { granted, kind }.into());
            }
        }
        let request = AppendEntries {
            prev_log: log_entry(1, 2),
            count: 3,
            leader_commit: LogIndex(4),
            round: 6,
            replicated_everywhere: LogIndex(7),
        };
        comes_back(request.into());
        let rejected = AppendOutcome::Rejected {
            prev_log_index: LogIndex(1),
            hint: log_entry(2, 3),
        };
        let accepted = AppendOutcome::Accepted {
            match_index: LogIndex(8),
        };
        for outcome in [rejected, accepted] {
            let response = AppendResponse {
                round: 4,
                outcome,
                log_epoch: 5,
                tainted: outcome == accepted,
                room: if outcome == rejected {
                    LogRoom::Full
                } else {
                    LogRoom::Short
                },
                renounced: outcome == rejected,
            };
            comes_back(response.into());
        }
        comes_back(Body::TimeoutNow);
        comes_back(Repaired { log_epoch: 6 }.into());
    }

    #[test]
    fn every_greeting_comes_back_as_it_was_and_is_no_message() {
        let life = |generation| Life {
            generation,
            epoch: 2,
            nonce: 3,
        };
        let introduction = |met| Greeting::Introduction { own: life(1), met };
        let known = introduction(Some(life(4)));
        for said in [introduction(None), known, Greeting::Recognised] {
            let head = greeting_head(said);
            assert_eq!((greeting(&head), message(&head)), (Some(said), None));
        }
        let message = Message::new(Term(1), Body::TimeoutNow);
        assert_eq!(greeting(&head(GroupId(0), &message)), None);
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
