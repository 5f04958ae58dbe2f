//! When to dial a lost peer again: soon at first, then less and less often.

/// Exponential back-off with jitter. Deterministic: a seed gives one series of delays.
#[derive(Clone, Debug)]
pub struct Reconnect {
    delay_min: u64,
    delay_max: u64,
    failures: u32,
    state: u64,
}

impl Reconnect {
    /// Delays between these bounds, in nanoseconds.
    ///
    /// # Panics
    /// If the bounds are zero or exchanged, which the configuration refuses.
    #[must_use]
    pub fn new(seed: u64, delay_min: u64, delay_max: u64) -> Self {
        assert!(
            0 < delay_min && delay_min <= delay_max,
            "back-off bounds out of order"
        );
        Self {
            delay_min,
            delay_max,
            failures: 0,
            state: seed | 1,
        }
    }

    /// The peer answered: the next failure is the first again.
    pub fn on_connected(&mut self) {
        self.failures = 0;
    }

    /// The dial failed or the connection broke. Returns when to dial, given the time in
    /// nanoseconds: between half of the current delay and all of it from now.
    pub fn on_failed(&mut self, now: u64) -> u64 {
        let doubled = self
            .delay_min
            .checked_shl(self.failures.min(62))
            .unwrap_or(u64::MAX);
        let overflow = doubled >> self.failures.min(62) != self.delay_min;
        let delay = if overflow {
            self.delay_max
        } else {
            doubled.min(self.delay_max)
        };
        self.failures = self.failures.saturating_add(1);
        // Marsaglia's xorshift64: enough to keep the peers of a restarted node apart.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        now.saturating_add(delay / 2 + self.state % (delay / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_begin_again_after_a_success() {
        let mut reconnect = Reconnect::new(3, 100, 1_000);
        for ceiling in [100, 200, 400, 800, 1_000, 1_000] {
            let delay = reconnect.on_failed(5_000) - 5_000;
            assert!(
                (ceiling / 2..=ceiling).contains(&delay),
                "{delay} of {ceiling}"
            );
        }
        reconnect.on_connected();
        assert!(reconnect.on_failed(0) <= 100);
        for _ in 0..200 {
            assert!(reconnect.on_failed(0) <= 1_000);
        }
    }
}
