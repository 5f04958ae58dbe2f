//! `pontoon log verify`: torn tails and damage, by file and offset.

use std::path::Path;

use anyhow::{Context, Result};
use pontoon::storage::{Inspection, OpenError, inspect, segment_path};

use crate::output;

/// Verifies the logs of a directory. Gives whether all are sound.
pub(super) fn run(directory: &Path) -> Result<bool> {
    let mut sound = true;
    let directories = super::log_directories(directory)?;
    let found = directories.len();
    let of_node = directories[0] != directory;
    for path in directories {
        let inspection = match inspect(&path) {
            Ok(inspection) => inspection,
            // Cut or grown: damage of this core's log, and no reason to leave out the others.
            Err(error @ OpenError::SegmentLength { .. }) => {
                output::say(&format!("{}: DAMAGED; {error}", path.display()));
                sound = false;
                continue;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("inspecting {}", path.display()));
            }
        };
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
        let cores = inspection
            .identity
            .map_or(found, |identity| usize::from(identity.cores));
        if of_node && cores != found {
            let missing = "the logs of others are missing";
            output::say(&format!(
                "{}: one of {cores} cores; {missing}",
                path.display()
            ));
            sound = false;
        }
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
    for bad in &inspection.recovery.report.unreadable {
        lines.push(format!(
            "{} at {}: the disk can't read {} bytes",
            file(bad.slot),
            bad.offset,
            bad.bytes
        ));
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
            "{} at {}: torn tail: frame {} is not known to have been durable; a node drops it",
            file(slot),
            frame.offset,
            frame.number
        ));
    }
    for group in &inspection.recovery.groups {
        if group.tainted {
            lines.push(format!(
                "group {} is tainted: something durable was lost, and the replica must not vote",
                group.group
            ));
        }
    }
    lines
}
