//! What a directed way between two nodes carries: so many bytes a second, through a buffer.

use crate::random::Random;
use crate::settings::MILLISECOND;

/// The largest piece that passes a link at once, in bytes.
const PIECE_MAX: u64 = 16 << 10;
/// A link's pieces are so long that it passes this many a second.
const PIECES_PER_SECOND: u64 = 20;
const SECOND: u64 = 1_000 * MILLISECOND;

/// Bytes a second that every link carries once all is healed.
const HEALED_BANDWIDTH: u64 = 1 << 20;

/// Between two looks at a link that carries nothing.
const HUNG_LOOK: u64 = 20 * MILLISECOND;

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// Bytes a second; 0 for as many as there are.
    pub(crate) bandwidth: u64,
    /// Bytes that a sender may be ahead of its receiver: the buffers of both sockets.
    pub(crate) buffer: usize,
    /// It carries nothing until then.
    pub(crate) hangs_until: u64,
    /// It carries `drip` bytes a second until then.
    pub(crate) drips_until: u64,
    drip: u64,
}

/// All links, by sender and receiver. Without any, everything passes at once.
#[derive(Debug, Default)]
pub(crate) struct Links {
    nodes: usize,
    links: Vec<Link>,
}

impl Links {
    /// Links between so many nodes, from `slowest` bytes a second up.
    pub(crate) fn draw(random: &mut Random, nodes: usize, slowest: u64) -> Self {
        let draw = |random: &mut Random| Link {
            bandwidth: match random.below(4) {
                0 => 0,
                _ => slowest << random.below(12),
            },
            buffer: (4 << 10) << random.below(9),
            ..Link::default()
        };
        let links = (0..nodes * nodes).map(|_| draw(random)).collect();
        Self { nodes, links }
    }

    /// The way from one node to another, if it has limits.
    pub(crate) fn between(&mut self, from: usize, to: usize) -> Option<&mut Link> {
        self.links.get_mut(from * self.nodes + to)
    }

    /// No link is too slow for its groups' heartbeats any more.
    pub(crate) fn widen(&mut self) {
        for link in &mut self.links {
            if link.bandwidth > 0 {
                link.bandwidth = link.bandwidth.max(HEALED_BANDWIDTH);
            }
        }
    }

    /// Every link carries what it can again.
    pub(crate) fn repair(&mut self) {
        for link in &mut self.links {
            (link.hangs_until, link.drips_until) = (0, 0);
        }
    }
}

impl Link {
    /// It carries nothing for a while.
    pub(crate) fn hang(&mut self, until: u64) {
        self.hangs_until = until;
    }

    /// It carries a few bytes now and then.
    pub(crate) fn drip(&mut self, until: u64, bytes_per_second: u64) {
        (self.drips_until, self.drip) = (until, bytes_per_second);
    }

    /// Bytes a second, now; 0 for as many as there are.
    pub(crate) fn rate(&self, now: u64) -> u64 {
        if now < self.drips_until {
            self.drip
        } else {
            self.bandwidth
        }
    }

    /// The next piece that passes: at most how many bytes.
    pub(crate) fn piece(&self, now: u64) -> usize {
        let rate = self.rate(now);
        let piece = match rate {
            0 => PIECE_MAX,
            _ => (rate / PIECES_PER_SECOND).clamp(16, PIECE_MAX),
        };
        usize::try_from(piece).expect("a short piece")
    }

    /// How long so many bytes take to pass, or to the next look if nothing does.
    pub(crate) fn time(&self, now: u64, bytes: usize) -> u64 {
        if now < self.hangs_until {
            return HUNG_LOOK;
        }
        let time = bytes as u64 * SECOND;
        time.checked_div(self.rate(now)).unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_takes_as_long_as_its_bandwidth_says_and_longer_while_it_drips() {
        let mut link = Link {
            bandwidth: 100_000,
            ..Link::default()
        };
        assert_eq!(link.piece(0), 5_000);
        assert_eq!(link.time(0, 5_000) / MILLISECOND, 50);
        link.drip(SECOND, 1_000);
        assert_eq!(link.piece(0), 50);
        assert_eq!(link.time(0, 50) / MILLISECOND, 50);
        assert_eq!(link.piece(SECOND), 5_000);
        link.hang(2 * SECOND);
        assert_eq!(link.time(SECOND, 5_000), HUNG_LOOK);
    }
}
