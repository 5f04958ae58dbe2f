//! Recovery: from what the disk holds after a crash to a log that goes on.
//!
//! It reads, decides, and writes one thing: the beginning of the new epoch. Until that is durable
//! nothing has changed, so it can be interrupted and done again with the same outcome.

mod chain;
mod epoch;
mod inspect;
mod replay;
mod replayed;
mod scan;
mod unreadable;
mod verdict;

use std::collections::BTreeMap;

use pontoon_types::{EntryId, GroupId, LogIndex, NodeId, Term};

use crate::config::LogConfig;
use crate::disk::Volume;
use crate::error::OpenError;
use crate::life::Lives;
use crate::log::frames::Frames;
use crate::log::group::Group;
use crate::log::segments::Space;
use crate::mutant::Mutant;
use crate::witness::{self, Forgetting, Testimony, Witness};

pub use unreadable::Unreadable;

pub use inspect::{FrameVerdict, InspectedFrame, InspectedSegment, Inspection, inspect};

use chain::Chain;
use epoch::Begun;
use replay::Replay;
use scan::{ScannedFrame, Segment, SegmentReader, SegmentScan};

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The groups, by ascending number.
    pub groups: Vec<RecoveredGroup>,
    /// How recovery went.
    pub report: RecoveryReport,
}

/// A group as recovery found it. Everything here is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The group.
    pub group: GroupId,
    /// Which life of this group number it is.
    pub incarnation: u64,
    /// The term.
    pub current_term: Term,
    /// The vote in that term.
    pub voted_for: Option<NodeId>,
    /// A commit index that was known; the true one may be higher.
    pub commit_index: LogIndex,
    /// The last entry that is no longer kept; index 0 while all are.
    pub compacted: EntryId,
    /// The first entry of each run of entries of equal term; ascending.
    pub terms: Vec<EntryId>,
    /// The last entry's index.
    pub last_index: LogIndex,
    /// What the engine keeps with the group.
    pub definition: Vec<u8>,
    /// Something durable is damaged, and it may have been this group's: it must not vote, campaign
    /// or count. A group with a single copy must not be served; the report says where.
    pub tainted: bool,
    /// The log was found to have forgotten something, and the group was not repaired since: it must
    /// not vote, campaign or count either, unless this node is its only member.
    pub forgot: bool,
    /// It was made, and has not met all its members since: it has promised nothing.
    pub unfounded: bool,
}

/// How recovery went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The epoch that began.
    pub epoch: u64,
    /// Segments that hold something.
    pub segments: usize,
    /// Frames that count.
    pub frames: u64,
    /// Frames that verify and don't count: never acknowledged, or of an epoch that had ended.
    pub frames_dropped: u64,
    /// Durable frames that are missing or don't verify.
    pub damage: Vec<Damage>,
    /// The log was found by its witness to have forgotten something: a new generation began.
    pub forgetting: Option<Forgetting>,
    /// What the disk can't read, whether anything durable was there or not.
    pub unreadable: Vec<Unreadable>,
}

/// Frames that were durable and are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment (file `segment-NNNN`) where they should be or begin.
    pub slot: u32,
    /// Near where in it: the end of what verifies before.
    pub offset: u64,
    /// First frame that is missing.
    pub first_frame: u64,
    /// Last frame that is missing.
    pub last_frame: u64,
}

/// A recovered log, before it is put together.
pub(crate) struct Recovered {
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) lives: Lives,
    /// The life that has begun is on the disk.
    pub(crate) life_is_durable: bool,
    /// So is the generation that it is of.
    pub(crate) generation_is_durable: bool,
    /// As it was written last, unless the log does without.
    pub(crate) witness: Option<Witness>,
    terms: BTreeMap<GroupId, Vec<EntryId>>,
    pub(crate) frames: Frames,
    pub(crate) space: Space,
    /// The last frame that counts of those that were found.
    pub(crate) last_found: u64,
    /// The last frame of the log, and its checksum: the same, or that which begins the new epoch.
    pub(crate) last: (u64, u32),
    /// Bytes of the longest frame, which may have been written with another limit than now.
    pub(crate) frame_bytes_longest: usize,
    pub(crate) next_incarnation: u64,
    report: RecoveryReport,
}

impl Recovered {
    /// The part that goes to the engine.
    pub(crate) fn recovery(&self) -> Recovery {
        let groups = self.groups.iter().map(|(id, group)| RecoveredGroup {
            group: *id,
            incarnation: group.state.incarnation,
            current_term: group.state.current_term,
            voted_for: group.state.voted_for,
            commit_index: group.state.commit_index,
            compacted: group.state.compacted,
            terms: self.terms.get(id).cloned().unwrap_or_default(),
            last_index: group.state.last.index,
            definition: group.state.definition.clone(),
            tainted: group.state.tainted,
            forgot: group.state.sound_in < self.lives.generation,
            unfounded: group.state.unfounded,
        });
        Recovery {
            groups: groups.collect(),
            report: self.report.clone(),
        }
    }
}

/// Recovers a volume and begins a new epoch on it.
pub(crate) fn recover(volume: &mut dyn Volume, config: &LogConfig) -> Result<Recovered, OpenError> {
    let mut reader = SegmentReader::new(volume, config)?;
    // Another's log is refused before anything is changed.
    let scan = reader.scan(config)?;
    let mut witness = witness::open(reader.volume, config)?;
    let seen = witness.as_ref().and_then(Testimony::seen);
    let mut report = RecoveryReport::default();
    let (chain, mut replay, newest_epoch) = find(&mut reader, (config, seen), &scan, &mut report)?;
    if let Some(witness) = &mut witness {
        let lacks = chain.cut_short || seen.is_some_and(|seen| seen.is_ahead_of(&replay.lives));
        report.forgetting = witness.forgetting(lacks);
        if report.forgetting.is_some() {
            witness.raise(reader.volume, config, &mut replay.lives)?;
        }
    }
    let Begun {
        mut space,
        frame,
        with_lives,
    } = epoch::begin(
        &mut reader,
        config,
        (&scan, &chain),
        (newest_epoch, &mut witness),
        &mut replay.lives,
    )?;
    if let Some(begun) = &frame {
        enter(begun, &mut replay.frames);
    }
    leave_out_unsound(&mut reader, &mut space);
    report.unreadable = reader.bad.list(reader.block);
    report.epoch = space.epoch;
    // The epoch may have begun in one more.
    report.segments = space.live.len() - usize::from(frame.is_none());
    report.frames = chain.frames.len() as u64;
    let block = reader.block;
    let lengths = chain.frames.iter().map(|it| it.header.frame_bytes(block));
    let frame_bytes_longest = lengths.max().unwrap_or(0);
    report.damage = chain.damage;
    say(&report);
    let last = frame.map_or(chain.last, |begun| (begun.header.number, begun.checksum));
    let generation_is_durable = with_lives || report.forgetting.is_none();
    let now = (replay.lives.generation, &space, last.0);
    let witness = witness.as_mut().and_then(|witness| {
        let next = next_witness(witness, now);
        witness::renew(volume, config, witness, next, generation_is_durable)
    });
    let groups = replay.groups.into_iter();
    let (groups, terms) = groups
        .map(|(id, replayed)| ((id, replayed.group), (id, replayed.terms)))
        .unzip();
    Ok(Recovered {
        groups,
        lives: replay.lives,
        life_is_durable: with_lives,
        generation_is_durable,
        witness,
        terms,
        frames: replay.frames,
        space,
        last_found: chain.last.0,
        last,
        frame_bytes_longest,
        next_incarnation: replay.next_incarnation,
        report,
    })
}

/// Walks the frames of the segments and replays those that count. Also gives the newest epoch of
/// any frame.
fn find(
    reader: &mut SegmentReader<'_>,
    (config, seen): (&LogConfig, Option<Witness>),
    scan: &SegmentScan,
    report: &mut RecoveryReport,
) -> Result<(Chain, Replay, u64), OpenError> {
    let (mut candidates, base) = candidates(scan);
    let found = candidates
        .iter()
        .map(|segment| reader.frames(segment))
        .collect::<Result<Vec<_>, OpenError>>()?;
    if config.is(Mutant::UnreadableEndsLog) {
        let bad = |segment: &Segment| reader.bad.are_behind(segment.slot, 0);
        candidates.truncate(candidates.iter().position(bad).unwrap_or(candidates.len()));
    }
    let mut chain = chain::walk(&candidates, &found, base, (config, seen), report);
    chain.damage.extend(scan.lost);
    let (replay, unreplayed) = replay(reader, &chain)?;
    chain.damage.extend(unreplayed);
    let newest_frame = found.iter().flat_map(|found| &found.frames);
    let newest_epoch = newest_frame.map(|frame| frame.header.epoch).max();
    Ok((chain, replay, newest_epoch.unwrap_or(0)))
}

/// What the witness is to say after what it has said: the generation, and what is durable.
fn next_witness(witness: &Testimony, (generation, space, frame): (u64, &Space, u64)) -> Witness {
    Witness {
        count: witness.seen().map_or(0, |seen| seen.count),
        generation,
        epoch: space.epoch,
        sequence: space.live.back().map_or(0, |segment| segment.sequence),
        frame,
        birth: witness.birth,
    }
}

/// The frame that begins an epoch is one of the log.
fn enter(begun: &ScannedFrame, frames: &mut Frames) {
    let (sequence, number) = (begun.header.sequence, begun.header.number);
    frames.push(number);
    frames.set_location(number, begun.slot, sequence, begun.offset);
}

/// Says what is wrong with the disk.
fn say(report: &RecoveryReport) {
    let (unreadable, damage) = (&report.unreadable, &report.damage);
    if !unreadable.is_empty() {
        tracing::error!(
            ?unreadable,
            "the disk can't read these places: replace it soon"
        );
    }
    if !damage.is_empty() {
        tracing::error!(?damage, "durable frames are damaged");
    }
}

/// Sets aside the slots that have bad sectors and hold nothing that is needed; those that do are to
/// be, once they don't.
fn leave_out_unsound(reader: &mut SegmentReader<'_>, space: &mut Space) {
    let known = reader.volume.unsound();
    let unsound = epoch::unsound(reader);
    let (slots, volume) = (reader.volume.slots(), &mut *reader.volume);
    for &slot in &unsound {
        let live = space.live.iter().any(|live| live.slot == slot);
        let remembered = match live {
            true if known.contains(&slot) => Ok(()),
            true => volume.mark_unsound(slot),
            false if slots.contains(&slot) => {
                tracing::warn!(
                    slot,
                    "a free segment has bad sectors: it is set aside for good"
                );
                volume.set_aside(slot)
            }
            false => Ok(()),
        };
        if let Err(error) = remembered {
            tracing::warn!(slot, %error, "that it has bad sectors can't be remembered");
        }
    }
    space.leave_out(unsound);
}

/// The segments that may be live, by ascending sequence, and the first of them as far as any header
/// says.
fn candidates(scan: &SegmentScan) -> (Vec<Segment>, u64) {
    let segments = scan.segments.iter();
    let oldest = segments.map(|segment| segment.header.oldest_live);
    let base = oldest.max().unwrap_or(0);
    let segments = scan.segments.iter();
    let live = segments.filter(|segment| segment.header.sequence >= base);
    (live.cloned().collect(), base)
}

/// Replays the frames that count; also gives those that could not be replayed.
fn replay(
    reader: &mut SegmentReader<'_>,
    chain: &Chain,
) -> Result<(Replay, Vec<Damage>), OpenError> {
    let first = chain
        .frames
        .first()
        .map_or(chain.last.0 + 1, |frame| frame.header.number);
    let mut replay = Replay::new(first);
    let mut unreplayed = Vec::new();
    let mut damage = chain.damage.iter().peekable();
    for ScannedFrame {
        slot,
        offset,
        header,
        ..
    } in &chain.frames
    {
        while damage
            .next_if(|damage| damage.first_frame < header.number)
            .is_some()
        {
            replay.damage();
        }
        replay.frames.push(header.number);
        replay
            .frames
            .set_location(header.number, *slot, header.sequence, *offset);
        let bytes = reader.load(*slot)?;
        let payload = scan::payload(bytes, *offset as usize, header).expect("verified before");
        // The walk has verified the frame and each record in it, but it may say what no log
        // writes, and a segment that is not in memory any more was read once again: the disk may
        // have given other bytes this time.
        if !replay.frame(header, payload) {
            replay.damage();
            unreplayed.push(Damage {
                slot: *slot,
                offset: *offset,
                first_frame: header.number,
                last_frame: header.number,
            });
        }
    }
    for _ in damage {
        replay.damage();
    }
    replay.finish();
    Ok((replay, unreplayed))
}
