//! How long the way to a peer and back is, and whether that is known to be too long.

/// The least of so many pings counts: the others waited behind something.
const PINGS: usize = 4;

/// What the latest pings of one peer took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    latest: [Option<u64>; PINGS],
    next: usize,
    /// It was said that it is too long.
    told: bool,
}

impl RoundTrip {
    /// The way there and back; `None` until it was measured.
    pub(super) fn get(&self) -> Option<u64> {
        self.latest.iter().flatten().min().copied()
    }

    /// A ping took so long. Gives the round trip if it is longer than `max` and that is news: once,
    /// until it was shorter again.
    pub(super) fn on_measured(&mut self, took: u64, max: u64) -> Option<u64> {
        self.latest[self.next] = Some(took);
        self.next = (self.next + 1) % PINGS;
        let all = self.latest.iter().all(Option::is_some);
        let round_trip = self.get().filter(|_| all)?;
        let is_long = round_trip > max;
        let is_news = is_long && !self.told;
        self.told = is_long;
        is_news.then_some(round_trip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_way_is_told_once_and_a_ping_that_waited_is_none() {
        let mut round_trip = RoundTrip::default();
        let told = [900, 100, 900, 900, 900, 800, 900, 900]
            .map(|took| round_trip.on_measured(took, 500));
        assert_eq!(told, [None, None, None, None, None, Some(800), None, None]);
        assert_eq!(round_trip.on_measured(90, 500), None);
        assert_eq!(round_trip.get(), Some(90));
    }
}
