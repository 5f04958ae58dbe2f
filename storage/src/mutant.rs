//! Faults that the simulator puts in, to show that it would find them.
#![allow(unreachable_pub, reason = "public with the feature `mutants` alone")]

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Recovery takes every bad frame for the torn end of the log.
    EveryDamageIsTorn,
    /// The log ends where the disk can't read.
    UnreadableEndsLog,
    /// Recovery believes what lies behind the accepted end of an earlier epoch.
    IgnoresAcceptedEnds,
    /// A segment is used again before anything durable says that it is free.
    FreesEarly,
    /// A frame counts as soon as it is written, whatever is still missing before it.
    CountsOutOfOrder,
    /// The log of another node or core is opened like its own.
    OpensForeign,
    /// A place that can't be read is read again and again.
    ReadsInVain,
    /// A life of the log is known again by its epoch alone.
    IgnoresNonces,
    /// A log that ends before its witness is taken for whole.
    IgnoresWitness,
    /// The witness says of frames that they are durable while they are being written.
    WitnessRunsAhead,
    /// Reads for peers leave no buffer for those of entries that are to be applied.
    PeersTakeAllBuffers,
}
