//! `pontoon log verify`: torn tails and damage, by file and offset.

use std::path::Path;

use anyhow::Result;
use pontoon::storage::{Inspection, segment_path};

use crate::output;

/// Verifies the logs of a directory. Gives whether all are sound.
pub(super) fn run(directory: &Path) -> Result<bool> {
    let mut sound = true;
    for (path, inspection) in super::inspect_all(directory)? {
        for line in findings(&path, &inspection) {
            output::say(&line);
        }
        let verdict = if inspection.is_sound() {
            "sound"
        } else {
            "DAMAGED"
        };
        let report = &inspection.recovery.report;
        output::say(&format!(
            "{}: {verdict}; {} groups, {} frames, the last one is {}",
            path.display(),
            inspection.recovery.groups.len(),
            report.frames,
            inspection.last_frame
        ));
        sound &= inspection.is_sound();
    }
    Ok(sound)
}

/// A line for each header or frame that does not verify.
fn findings(directory: &Path, inspection: &Inspection) -> Vec<String> {
    let file = |slot| segment_path(directory, slot).display().to_string();
    let mut lines = Vec::new();
    for slot in &inspection.unidentified {
        lines.push(format!(
            "{} at 0: the header does not verify, and no segment says whose log it is",
            file(*slot)
        ));
    }
    for segment in &inspection.segments {
        if segment.live && segment.header_damaged {
            lines.push(format!(
                "{} at 0: the header does not verify",
                file(segment.slot)
            ));
        }
    }
    for damage in &inspection.recovery.report.damage {
        lines.push(format!(
            "{} at {}: damage: frames {} to {} were durable and do not verify",
            file(damage.slot),
            damage.offset,
            damage.first_frame,
            damage.last_frame
        ));
    }
    if let Some((slot, frame)) = inspection.torn_tail() {
        lines.push(format!(
            "{} at {}: torn tail: frame {} was never acknowledged; a node drops it",
            file(slot),
            frame.offset,
            frame.number
        ));
    }
    for group in &inspection.recovery.groups {
        if group.tainted {
            lines.push(format!(
                "group {} is tainted: it must not vote",
                group.group
            ));
        }
    }
    lines
}
