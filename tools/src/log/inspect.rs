//! `pontoon log inspect`: segments, groups and frames as tables or JSON.

use anyhow::Result;
use pontoon::GroupId;
use pontoon::storage::{
    FrameVerdict, InspectedFrame, InspectedSegment, Inspection, RecoveredGroup,
};
use serde_json::{Value, json};

use super::InspectArguments;
use crate::output;

const SEGMENT_HEADER: [&str; 9] = [
    "segment",
    "sequence",
    "epoch",
    "first",
    "last",
    "frames",
    "durable",
    "oldest live",
    "state",
];
const GROUP_HEADER: [&str; 7] = [
    "group",
    "term",
    "vote",
    "entries",
    "commit",
    "compacted",
    "state",
];
const FRAME_HEADER: [&str; 7] = [
    "frame", "segment", "offset", "bytes", "records", "groups", "verdict",
];

/// Prints the logs of a directory.
pub(super) fn run(arguments: &InspectArguments) -> Result<()> {
    let logs = super::inspect_all(&arguments.directory)?;
    if arguments.json {
        let logs: Vec<_> = logs
            .iter()
            .map(|(path, log)| json_of(&path.display().to_string(), log, arguments))
            .collect();
        output::say(&serde_json::to_string_pretty(&logs)?);
        return Ok(());
    }
    for (path, log) in &logs {
        output::say(&format!("{}: {}", path.display(), summary(log)));
        let segments: Vec<_> = log.segments.iter().map(segment_row).collect();
        output::table(&SEGMENT_HEADER, &segments);
        let groups: Vec<_> = groups(log, arguments).map(group_row).collect();
        if let (Some(group), true) = (arguments.group, groups.is_empty()) {
            output::say(&format!("group {group} is not in this log"));
        }
        output::table(&GROUP_HEADER, &groups);
        if arguments.frames {
            let rows = frames(log, arguments).map(|(slot, frame)| frame_row(slot, frame));
            output::table(&FRAME_HEADER, &rows.collect::<Vec<_>>());
        }
    }
    Ok(())
}

fn summary(log: &Inspection) -> String {
    let Some(identity) = log.identity else {
        return "no segment says whose log it is".to_owned();
    };
    format!(
        "cluster {:x}, node {}, core {} of {}, segments of {} bytes in blocks of {}, {} unused",
        identity.cluster,
        identity.node,
        identity.core,
        identity.cores,
        log.segment_bytes,
        log.block_bytes,
        log.unused.len()
    )
}

fn groups<'a>(
    log: &'a Inspection,
    arguments: &InspectArguments,
) -> impl Iterator<Item = &'a RecoveredGroup> {
    let only = arguments.group;
    let groups = log.recovery.groups.iter();
    groups.filter(move |group| only.is_none_or(|only| group.group.0 == only))
}

/// The frames to list, each with its slot.
fn frames<'a>(
    log: &'a Inspection,
    arguments: &InspectArguments,
) -> impl Iterator<Item = (u32, &'a InspectedFrame)> {
    let only = arguments.group;
    let segments = log.segments.iter();
    let frames = segments.flat_map(|segment| segment.frames.iter().map(|f| (segment.slot, f)));
    frames.filter(move |(_, frame)| only.is_none_or(|only| frame.groups.contains(&GroupId(only))))
}

fn segment_state(segment: &InspectedSegment) -> &'static str {
    match (segment.header_damaged, segment.live) {
        (true, _) => "header damaged",
        (false, true) => "live",
        (false, false) => "free",
    }
}

fn segment_row(segment: &InspectedSegment) -> Vec<String> {
    let number = |frame: Option<&InspectedFrame>| {
        frame.map_or_else(|| "-".to_owned(), |frame| frame.number.to_string())
    };
    vec![
        format!("{:04}", segment.slot),
        segment.sequence.to_string(),
        segment.epoch.to_string(),
        number(segment.frames.first()),
        number(segment.frames.last()),
        segment.frames.len().to_string(),
        segment.durable_frame.to_string(),
        segment.oldest_live.to_string(),
        segment_state(segment).to_owned(),
    ]
}

fn group_row(group: &RecoveredGroup) -> Vec<String> {
    let vote = group.voted_for;
    let (first, last) = (group.compacted.index.0 + 1, group.last_index.0);
    let state = if group.tainted { "tainted" } else { "clean" };
    vec![
        group.group.to_string(),
        group.current_term.to_string(),
        vote.map_or_else(|| "-".to_owned(), |node| format!("node {node}")),
        match last < first {
            true => "-".to_owned(),
            false => format!("{first}..{last}"),
        },
        group.commit_index.to_string(),
        group.compacted.index.to_string(),
        state.to_owned(),
    ]
}

fn frame_row(slot: u32, frame: &InspectedFrame) -> Vec<String> {
    let groups: Vec<_> = frame.groups.iter().map(GroupId::to_string).collect();
    vec![
        frame.number.to_string(),
        format!("{slot:04}"),
        frame.offset.to_string(),
        frame.payload_bytes.to_string(),
        if frame.mark {
            "mark".to_owned()
        } else {
            frame.records.to_string()
        },
        groups.join(" "),
        verdict_name(frame.verdict).to_owned(),
    ]
}

fn verdict_name(verdict: FrameVerdict) -> &'static str {
    match verdict {
        FrameVerdict::Counts => "counts",
        FrameVerdict::Damaged => "damaged",
        FrameVerdict::Torn => "torn",
        FrameVerdict::Dropped => "dropped",
        FrameVerdict::Freed => "freed",
    }
}

fn json_of(directory: &str, log: &Inspection, arguments: &InspectArguments) -> Value {
    let segments = log.segments.iter().map(|segment| {
        json!({
            "slot": segment.slot, "sequence": segment.sequence, "epoch": segment.epoch,
            "first_frame": segment.frames.first().map(|frame| frame.number),
            "last_frame": segment.frames.last().map(|frame| frame.number),
            "frames": segment.frames.len(), "durable_frame": segment.durable_frame,
            "oldest_live": segment.oldest_live, "epoch_ends": segment.ends,
            "state": segment_state(segment),
        })
    });
    let groups = groups(log, arguments).map(|group| {
        json!({
            "group": group.group.0, "term": group.current_term.0,
            "voted_for": group.voted_for.map(|node| node.0),
            "first_index": group.compacted.index.0 + 1, "last_index": group.last_index.0,
            "commit_index": group.commit_index.0, "compacted_index": group.compacted.index.0,
            "tainted": group.tainted,
        })
    });
    let mut value = json!({
        "directory": directory,
        "cluster": log.identity.map(|identity| format!("{:x}", identity.cluster)),
        "node": log.identity.map(|identity| identity.node),
        "core": log.identity.map(|identity| identity.core),
        "cores": log.identity.map(|identity| identity.cores),
        "segment_bytes": log.segment_bytes, "block_bytes": log.block_bytes,
        "segments": segments.collect::<Vec<_>>(), "unused": log.unused,
        "groups": groups.collect::<Vec<_>>(), "sound": log.is_sound(),
    });
    if arguments.frames {
        let frames = frames(log, arguments).map(|(slot, frame)| {
            let groups: Vec<u64> = frame.groups.iter().map(|group| group.0).collect();
            json!({
                "frame": frame.number, "slot": slot, "offset": frame.offset,
                "payload_bytes": frame.payload_bytes, "records": frame.records,
                "mark": frame.mark, "groups": groups,
                "durable_frame": frame.durable_frame, "verdict": verdict_name(frame.verdict),
            })
        });
        value["frames"] = frames.collect();
    }
    value
}
