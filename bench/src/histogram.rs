//! Latencies: recording, passing between processes, percentiles, medians of repetitions.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use serde::{Deserialize, Serialize};

/// Latencies in nanoseconds, three significant digits, up to a minute.
pub(crate) type Latencies = Histogram<u64>;

const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// An empty histogram.
pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants")
}

/// Records one latency; beyond a minute it counts as a minute.
pub(crate) fn record(latencies: &mut Latencies, latency: Duration) {
    let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    latencies.saturating_record(nanoseconds);
}

/// A histogram in transit between processes: (value, count) of every bucket in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Buckets(Vec<(u64, u64)>);

impl From<&Latencies> for Buckets {
    fn from(latencies: &Latencies) -> Self {
        let buckets = latencies.iter_recorded();
        Self(
            buckets
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        )
    }
}

impl Buckets {
    /// Adds the buckets to a histogram of this process.
    pub(crate) fn add_to(&self, latencies: &mut Latencies) {
        for &(value, count) in &self.0 {
            latencies.saturating_record_n(value, count);
        }
    }
}

/// Writes a histogram in the format of HdrHistogram's tools (`.hlog`).
///
/// # Errors
/// When the file can't be written.
pub(crate) fn write_log(path: &Path, latencies: &Latencies) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut file, &mut serializer)?;
    log.write_histogram(latencies, Duration::ZERO, Duration::ZERO, None)
        .map_err(|error| anyhow!("writing {}: {error:?}", path.display()))?;
    Ok(())
}

/// A percentile, from 0 to 100, in microseconds.
pub(crate) fn percentile_us(latencies: &Latencies, percentile: f64) -> f64 {
    latencies.value_at_percentile(percentile) as f64 / 1e3
}

/// The median; of an even number, the mean of the two in the middle; zero of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(microseconds: impl IntoIterator<Item = u64>) -> Latencies {
        let mut all = latencies();
        for value in microseconds {
            record(&mut all, Duration::from_micros(value));
        }
        all
    }

    #[test]
    fn the_median_ignores_one_outlier_of_three() {
        assert_eq!(median([3.0, 1000.0, 1.0]), 3.0);
        assert_eq!(median([4.0, 2.0]), 3.0);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn a_histogram_survives_the_journey_between_processes() {
        let sent = of([1, 1, 80, 80_000]);
        let text = serde_json::to_string(&Buckets::from(&sent)).unwrap();
        let received: Buckets = serde_json::from_str(&text).unwrap();
        let mut joined = latencies();
        received.add_to(&mut joined);
        assert_eq!(joined, sent);
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_its_end() {
        let mut all = latencies();
        record(&mut all, Duration::from_secs(100_000));
        assert_eq!(all.len(), 1);
        assert!(all.max() >= LATENCY_NS_MAX);
    }
}
