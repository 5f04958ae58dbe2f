//! What the clients saw, as EDN for checkers other than ours.

use std::fmt::{Display, Formatter, Result};

/// What has become of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It was asked for.
    Invoke,
    /// It took effect.
    Ok,
    /// It certainly took no effect.
    Fail,
    /// Nobody knows.
    Info,
}

/// One line of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEvent {
    /// Whose it is; each has one operation outstanding.
    pub process: u64,
    /// What has become of it.
    pub moment: Moment,
    /// It writes; otherwise it reads.
    pub writes: bool,
    /// Group and key.
    pub key: (u64, u64),
    /// Written or read; `None` where a read has no answer.
    pub value: Option<u64>,
    /// Simulated time, in nanoseconds.
    pub time: u64,
}

struct Line<'a>(usize, &'a HistoryEvent);

impl Display for Line<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let Self(index, event) = self;
        let moment = match event.moment {
            Moment::Invoke => "invoke",
            Moment::Ok => "ok",
            Moment::Fail => "fail",
            Moment::Info => "info",
        };
        let function = if event.writes { "write" } else { "read" };
        let key = event.key.0 * 1000 + event.key.1;
        let value = event.value;
        let value = value.map_or_else(|| "nil".to_owned(), |value| value.to_string());
        writeln!(
            formatter,
            "{{:process {}, :type :{moment}, :f :{function}, :value [{key} {value}], :time {}, \
             :index {index}}}",
            event.process, event.time
        )
    }
}

/// A history as EDN, as Knossos and porcupine read a history of Jepsen's: one map a line, in the
/// order of events.
///
/// ```text
/// {:process 0, :type :invoke, :f :write, :value [1002 7], :time 104729, :index 12}
/// {:process 1, :type :ok, :f :read, :value [1002 7], :time 105000, :index 13}
/// ```
///
/// - `:index` counts the lines from 0, `:time` is simulated time in nanoseconds.
/// - `:value` is a pair of key and value, as `jepsen.independent` has it: each key is a register of
///   its own that begins with 0. Key `k` of group `g` is `1000 g + k`. Values are unique. A read is
///   invoked with `nil` for its value.
/// - `:type` is `:invoke`, then `:ok`, or `:fail` for what certainly took no effect, or `:info` for
///   what may have taken effect or may yet do so. After `:info` a client goes on as another
///   process, because a process has one operation outstanding. What is never completed is open as
///   well.
#[must_use]
pub fn edn(history: &[HistoryEvent]) -> String {
    let lines = history.iter().enumerate();
    lines
        .map(|(index, event)| Line(index, event).to_string())
        .collect()
}
