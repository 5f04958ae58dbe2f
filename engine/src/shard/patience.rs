//! How long a connection may be silent or slow: all of it follows from the election timeout, so
//! that whoever configures a long way has said it once. In nanoseconds.

const SECOND: u64 = 1_000_000_000;

/// How long is waited for the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// Both ends ask so often whether the other one is there.
    pub(super) ping_interval: u64,
    /// As much may wait for a peer as it takes in this time: votes and heartbeats of all groups
    /// wait behind it, several times in an election.
    pub(super) queueing: u64,
    /// A new connection says something within this time, or is closed: what it says travels behind
    /// nothing, so this is round trips.
    pub(super) first_words: u64,
    /// One that has said nothing for so long, or has never answered anything but pings, gives way
    /// to another of the same peer that has said something.
    pub(super) gives_way: u64,
    /// Something must be taken of what waits in every period of this length.
    pub(super) send: u64,
    /// A send that takes this long is not waited for when others lack the memory that it pins.
    pub(super) stuck_send: u64,
    /// A peer that has taken everything answers within this time, also over a slow way on which a
    /// part of it still travels.
    pub(super) silence: u64,
}

impl Patience {
    pub(super) fn with(election_timeout: u64) -> Self {
        let timeouts = |count: u64| count.saturating_mul(election_timeout);
        Self {
            ping_interval: election_timeout / 2,
            queueing: election_timeout / 10,
            first_words: timeouts(2).max(2 * SECOND),
            gives_way: timeouts(2),
            send: timeouts(10).max(10 * SECOND),
            stuck_send: election_timeout.max(SECOND),
            silence: timeouts(10).max(30 * SECOND),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_election_timeouts_are_more_patience_and_short_ones_not_less() {
        let usual = Patience::with(SECOND);
        assert_eq!((usual.send, usual.silence), (10 * SECOND, 30 * SECOND));
        assert_eq!(Patience::with(SECOND / 10).send, usual.send);
        let long = Patience::with(6 * SECOND);
        assert_eq!((long.first_words, long.send), (12 * SECOND, 60 * SECOND));
    }
}
