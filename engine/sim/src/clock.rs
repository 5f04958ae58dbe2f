//! Clocks: each node's runs at a rate of its own, which changes now and then.

use crate::random::Random;

/// How far the rate of a sound clock is off, in parts per million: as much as NTP slews at most.
pub(crate) const DRIFT_MAX: u64 = 500;

/// A monotonic clock that is fast or slow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// Parts per million that it is fast.
    rate: i64,
    /// It has had this rate since then, and showed `local` at that moment.
    since: u64,
    local: u64,
}

impl Clock {
    /// What it shows.
    pub(crate) fn read(&self, now: u64) -> u64 {
        self.local + scale(now - self.since, 1_000_000 + self.rate, 1_000_000)
    }

    /// How much time passes while it shows that so much has.
    pub(crate) fn true_time(&self, local: u64) -> u64 {
        scale(local, 1_000_000, 1_000_000 + self.rate)
    }

    /// It goes on at another rate. It never goes back.
    pub(crate) fn set_rate(&mut self, now: u64, rate: i64) {
        self.local = self.read(now);
        (self.since, self.rate) = (now, rate);
    }
}

/// A rate that a sound clock may have.
pub(crate) fn within_bound(random: &mut Random) -> i64 {
    signed(random.between(0, 2 * DRIFT_MAX)) - signed(DRIFT_MAX)
}

/// A rate that no sound clock has: from half as fast as time to twice as fast.
pub(crate) fn beyond_bound(random: &mut Random) -> i64 {
    if random.happens(500_000) {
        signed(random.between(10 * DRIFT_MAX, 1_000_000))
    } else {
        -signed(random.between(10 * DRIFT_MAX, 500_000))
    }
}

fn signed(parts: u64) -> i64 {
    i64::try_from(parts).expect("at most a million")
}

fn scale(time: u64, by: i64, of: i64) -> u64 {
    // Division of 128 bits is slow, and hardly any time needs it.
    if let Some(product) = i64::try_from(time)
        .ok()
        .and_then(|time| time.checked_mul(by))
    {
        return u64::try_from(product / of).unwrap_or(u64::MAX);
    }
    let scaled = i128::from(time) * i128::from(by) / i128::from(of);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_from_where_it_was_when_its_rate_changes() {
        let mut clock = Clock::default();
        assert_eq!(clock.read(1_000_000), 1_000_000);
        clock.set_rate(1_000_000, 1_000_000);
        assert_eq!(clock.read(1_000_000), 1_000_000);
        assert_eq!(clock.read(1_500_000), 2_000_000);
        assert_eq!(clock.true_time(2_000), 1_000);
        clock.set_rate(1_500_000, -500_000);
        assert_eq!(clock.read(1_500_100), 2_000_050);
        assert_eq!(clock.true_time(50), 100);
    }
}
