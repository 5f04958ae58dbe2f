//! A limit on log lines: a few per second for each reason, the rest counted.

use std::collections::BTreeMap;

use pontoon_raft::Time;

/// Most lines of one reason per second.
const LINES_PER_SECOND: u32 = 5;

/// A second, in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// Decides which lines are logged, so that whoever connects in a loop can't fill the disk.
#[derive(Debug, Default)]
pub(crate) struct RateLimited {
    windows: BTreeMap<&'static str, Window>,
}

/// One second of one reason.
#[derive(Debug)]
struct Window {
    begun: Time,
    lines: u32,
    suppressed: u64,
}

impl RateLimited {
    /// Whether a line with this reason may be logged now. Gives the number of lines with the same
    /// reason that were left out before it; `None` if this one is left out as well.
    pub(crate) fn admit(&mut self, reason: &'static str, now: Time) -> Option<u64> {
        let window = self.windows.entry(reason).or_insert(Window {
            begun: now,
            lines: 0,
            suppressed: 0,
        });
        if now.since(window.begun) >= SECOND {
            (window.begun, window.lines) = (now, 0);
        }
        if window.lines == LINES_PER_SECOND {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_told_with_the_next() {
        let mut limited = RateLimited::default();
        let start = Time(7);
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(limited.admit("cores", start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(limited.admit("cores", start), None);
        }
        assert_eq!(limited.admit("version", start), Some(0), "another reason");
        let later = start.after(SECOND);
        assert_eq!(limited.admit("cores", later), Some(7));
        assert_eq!(limited.admit("cores", later), Some(0));
    }
}
