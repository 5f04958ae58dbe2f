//! Messages as a person would write them: for transcripts and logs.

use core::fmt;

use crate::message::{
    AppendEntries, AppendOutcome, AppendResponse, Body, Founding, LogRoom, Message, RequestVote,
    VoteKind, VoteResponse,
};

impl fmt::Display for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "term {}: {}", self.term, self.body)
    }
}

impl fmt::Display for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestVote(request) => request.fmt(formatter),
            Self::VoteResponse(response) => response.fmt(formatter),
            Self::AppendEntries(request) => request.fmt(formatter),
            Self::AppendResponse(response) => response.fmt(formatter),
            Self::Repaired(repaired) => write!(formatter, "Repaired epoch {}", repaired.log_epoch),
            Self::TimeoutNow => formatter.write_str("TimeoutNow"),
            Self::Founding(founding) => founding.fmt(formatter),
        }
    }
}

impl fmt::Display for Founding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = if self.founded {
            "founded"
        } else {
            "not founded"
        };
        let asks = if self.asks { ", asks" } else { "" };
        write!(
            formatter,
            "Founding: definition {:016x}, {said}{asks}",
            self.definition
        )
    }
}

impl fmt::Display for VoteKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PreVote => "pre-vote",
            Self::Vote => "vote",
            Self::Transfer => "vote by transfer",
        })
    }
}

impl fmt::Display for RequestVote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "RequestVote ({}), last entry {}",
            self.kind, self.last_log
        )
    }
}

impl fmt::Display for VoteResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = if self.granted { "yes" } else { "no" };
        write!(formatter, "VoteResponse ({}) {answer}", self.kind)
    }
}

impl fmt::Display for AppendEntries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AppendEntries after {}: ", self.prev_log)?;
        match self.range() {
            None => formatter.write_str("heartbeat")?,
            Some((first, last)) if first == last => write!(formatter, "entry {first}")?,
            Some((first, last)) => write!(formatter, "entries {first} to {last}")?,
        }
        write!(formatter, ", commit {}", self.leader_commit)
    }
}

impl fmt::Display for AppendResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AppendResponse ")?;
        match self.outcome {
            AppendOutcome::Accepted { match_index } => {
                write!(formatter, "accepted, match {match_index}")?;
            }
            AppendOutcome::Rejected {
                prev_log_index,
                hint,
            } => write!(formatter, "rejected at {prev_log_index}, hint {hint}")?,
        }
        if self.tainted {
            write!(formatter, ", tainted since epoch {}", self.log_epoch)?;
        }
        formatter.write_str(match self.room {
            LogRoom::Enough => "",
            LogRoom::Short => ", short of memory",
            LogRoom::Full => ", log full",
        })?;
        formatter.write_str(if self.renounced { ", renounced" } else { "" })
    }
}
