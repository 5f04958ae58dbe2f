//! How often one peer may be given another connection: whoever knows its id could ask without end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pontoon_raft::NodeId;

/// Most connections of one peer that one core is handed in a period: from where the peer is, and as
/// many from everywhere else. A peer that dials again and again, less and less often, makes fewer.
const CONNECTIONS_MAX: u32 = 16;
const PERIOD: Duration = Duration::from_secs(1);

/// A core, the peer that was named, and whether by somebody at the peer's own address: those
/// elsewhere must not use up its places.
type Who = (u16, NodeId, bool);

/// Counts the connections handed over: two entries for each peer.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    periods: BTreeMap<Who, (Instant, u32)>,
}

impl Turnstile {
    /// Whether a core may be given one more connection of a peer now; counts it, then.
    pub(super) fn lets_in(&mut self, who: Who, now: Instant) -> bool {
        let (begun, count) = self.periods.entry(who).or_insert((now, 0));
        if now.saturating_duration_since(*begun) >= PERIOD {
            (*begun, *count) = (now, 0);
        }
        *count += 1;
        *count <= CONNECTIONS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_let_in_so_often_in_a_second_and_holds_up_no_other() {
        let (mut turnstile, now) = (Turnstile::default(), Instant::now());
        let stranger = (0, NodeId(2), false);
        let let_in = (0..100).filter(|_| turnstile.lets_in(stranger, now));
        assert_eq!(let_in.count(), CONNECTIONS_MAX as usize);
        assert!(turnstile.lets_in((0, NodeId(2), true), now), "the peer");
        assert!(turnstile.lets_in((0, NodeId(3), false), now), "another");
        assert!(turnstile.lets_in((1, NodeId(2), false), now), "another core");
        assert!(turnstile.lets_in(stranger, now + PERIOD));
    }
}
