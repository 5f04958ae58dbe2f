//! The verdict on one frame: whether it counts, and if not, why.

use std::cmp::Ordering;

/// What the walk knows of a frame of an epoch when it reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its number is above the accepted end of its epoch.
    pub(super) after_end: bool,
    /// Its number, compared with the one after the last frame that counts.
    pub(super) order: Ordering,
    /// It has the number of the accepted end, but another checksum.
    pub(super) wrong_end: bool,
    /// It names the checksum of the last frame that counts as the one before it, or that one is
    /// damaged, so that its checksum is not known.
    pub(super) chained: bool,
    /// The frame before it was durable, by what a later frame or a later epoch says.
    pub(super) previous_durable: bool,
}

/// Whether a frame counts.
///
/// Exactly one row holds for a frame (`-`: whatever it is). Only D and G count:
///
/// | case | verdict        | after end | number | wrong end | chained | previous durable |
/// |------|----------------|-----------|--------|-----------|---------|------------------|
/// | A    | `AfterEnd`     | yes       | -      | -         | -       | -                |
/// | B    | `Old`          | no        | lower  | -         | -       | -                |
/// | C    | `WrongEnd`     | no        | next   | yes       | -       | -                |
/// | C    | `WrongEnd`     | no        | higher | yes       | -       | -                |
/// | D    | `Counts`       | no        | next   | no        | yes     | -                |
/// | E    | `NotChained`   | no        | next   | no        | no      | -                |
/// | F    | `GapInFlight`  | no        | higher | no        | -       | no               |
/// | G    | `GapOfDurable` | no        | higher | no        | -       | yes              |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A: it lies after the accepted end of its epoch. It was never acknowledged, and a later
    /// epoch has numbered its own frames from there on.
    AfterEnd,
    /// B: a frame of this number or a higher one counts already; this one is left over from an
    /// earlier epoch.
    Old,
    /// C: it has the number of the frame that a later epoch accepted as the end, and is another.
    WrongEnd,
    /// D: it is the next frame and follows the last one that counts.
    Counts,
    /// E: it has the next number, but was written after another frame than the last that counts.
    NotChained,
    /// F: frames before it are missing, and the last of them was in flight when power failed.
    /// They were never acknowledged, so neither they nor what follows counts.
    GapInFlight,
    /// G: frames before it are missing although they were durable. That is damage; it counts.
    GapOfDurable,
}

/// The one case of the table that the facts match. The patterns don't overlap: their order is
/// that of the table, and carries no meaning.
pub(super) fn verdict(facts: Facts) -> Verdict {
    use Ordering::{Equal, Greater, Less};
    let Facts {
        after_end,
        order,
        wrong_end,
        chained,
        previous_durable,
    } = facts;
    match (after_end, order, wrong_end, chained, previous_durable) {
        (true, _, _, _, _) => Verdict::AfterEnd,
        (false, Less, _, _, _) => Verdict::Old,
        (false, Equal | Greater, true, _, _) => Verdict::WrongEnd,
        (false, Equal, false, true, _) => Verdict::Counts,
        (false, Equal, false, false, _) => Verdict::NotChained,
        (false, Greater, false, _, false) => Verdict::GapInFlight,
        (false, Greater, false, _, true) => Verdict::GapOfDurable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the table; `None` is a fact that does not matter.
    struct Row {
        after_end: Option<bool>,
        order: Option<Ordering>,
        wrong_end: Option<bool>,
        chained: Option<bool>,
        previous_durable: Option<bool>,
        verdict: Verdict,
    }

    impl Row {
        fn matches(&self, facts: Facts) -> bool {
            fn is<T: PartialEq>(wanted: Option<T>, fact: T) -> bool {
                wanted.is_none_or(|wanted| wanted == fact)
            }
            is(self.after_end, facts.after_end)
                && is(self.order, facts.order)
                && is(self.wrong_end, facts.wrong_end)
                && is(self.chained, facts.chained)
                && is(self.previous_durable, facts.previous_durable)
        }
    }

    /// The table of [`Verdict`]'s documentation, once more.
    fn rows() -> [Row; 8] {
        use Ordering::{Equal, Greater, Less};
        let (yes, no) = (Some(true), Some(false));
        let row = |after_end, order, wrong_end, chained, previous_durable, verdict| Row {
            after_end,
            order,
            wrong_end,
            chained,
            previous_durable,
            verdict,
        };
        [
            row(yes, None, None, None, None, Verdict::AfterEnd),
            row(no, Some(Less), None, None, None, Verdict::Old),
            row(no, Some(Equal), yes, None, None, Verdict::WrongEnd),
            row(no, Some(Greater), yes, None, None, Verdict::WrongEnd),
            row(no, Some(Equal), no, yes, None, Verdict::Counts),
            row(no, Some(Equal), no, no, None, Verdict::NotChained),
            row(no, Some(Greater), no, None, no, Verdict::GapInFlight),
            row(no, Some(Greater), no, None, yes, Verdict::GapOfDurable),
        ]
    }

    fn all_facts() -> Vec<Facts> {
        let mut all = Vec::new();
        for bits in 0..16u8 {
            for order in [Ordering::Less, Ordering::Equal, Ordering::Greater] {
                all.push(Facts {
                    after_end: bits & 1 != 0,
                    order,
                    wrong_end: bits & 2 != 0,
                    chained: bits & 4 != 0,
                    previous_durable: bits & 8 != 0,
                });
            }
        }
        all
    }

    #[test]
    fn exactly_one_row_of_the_table_matches_each_frame_and_gives_its_verdict() {
        let rows = rows();
        for facts in all_facts() {
            let matching: Vec<_> = rows.iter().filter(|row| row.matches(facts)).collect();
            assert_eq!(matching.len(), 1, "rows that match {facts:?}");
            assert_eq!(verdict(facts), matching[0].verdict, "{facts:?}");
        }
    }

    #[test]
    fn every_row_of_the_table_is_met_by_some_frame() {
        for row in rows() {
            let met = all_facts().into_iter().any(|facts| row.matches(facts));
            assert!(met, "nothing meets {:?}", row.verdict);
        }
    }
}
