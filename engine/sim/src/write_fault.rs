//! What becomes of a write that a drive acknowledges.

/// What a drive does with a write that it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteFault {
    /// It is where it should be.
    Kept,
    /// It is not there: the place holds what was there before.
    Lost,
    /// The same, and it is somewhere else.
    Misdirected,
}
