//! Checkpoints: the state of all groups is repeated after each new segment has begun, a part per
//! frame, so that the segments before it can be freed.

use pontoon_types::GroupId;

use super::SegmentLog;
use super::groups::state_record;
use super::lives::lives_record;

/// How far the checkpoints have come.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The checkpoint that is being written.
    progress: Option<Progress>,
    /// The last complete one lies in this frame and later ones; 0 before there is one.
    first_frame: u64,
    /// Bytes of the last complete one.
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// First frame that holds a part of it, once there is one.
    first_frame: Option<u64>,
    /// What is remembered beside the groups is repeated.
    lives: bool,
    /// The next group to be repeated is the first at or above this.
    cursor: GroupId,
    bytes: u64,
}

impl Checkpoint {
    /// A log that was just opened begins with one: it can't tell where the last one lies.
    pub(super) fn new() -> Self {
        Self {
            progress: Some(Progress::default()),
            first_frame: 0,
            bytes: 0,
        }
    }

    /// Begins a checkpoint, unless the last one is still being written.
    pub(super) fn begin(&mut self) {
        self.progress.get_or_insert_default();
    }

    /// Whether one is being written.
    pub(super) fn is_begun(&self) -> bool {
        self.progress.is_some()
    }

    /// The state of all groups is repeated in this frame and later ones.
    pub(super) fn first_frame(&self) -> u64 {
        self.first_frame
    }

    /// Bytes of the state of all groups.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is remembered beside the groups is repeated in a frame.
    fn note_lives(&mut self, bytes: usize, frame: u64) {
        let progress = self.progress.as_mut().expect("a checkpoint was begun");
        progress.first_frame.get_or_insert(frame);
        progress.bytes += bytes as u64;
        progress.lives = true;
    }

    /// The state of a group is repeated in a frame.
    fn note(&mut self, group: GroupId, bytes: usize, frame: u64) {
        let progress = self.progress.as_mut().expect("a checkpoint was begun");
        progress.first_frame.get_or_insert(frame);
        progress.bytes += bytes as u64;
        match group.0.checked_add(1) {
            Some(cursor) => progress.cursor = GroupId(cursor),
            None => self.complete(frame),
        }
    }

    /// The state of all groups is repeated; `frame` is the one that takes records now.
    fn complete(&mut self, frame: u64) {
        let progress = self.progress.take().expect("a checkpoint was begun");
        self.first_frame = progress.first_frame.unwrap_or(frame);
        self.bytes = progress.bytes;
    }
}

impl SegmentLog {
    /// Repeats the state of some groups in the open frame, leaving room for `reserve` bytes.
    pub(super) fn write_checkpoint(&mut self, reserve: usize) {
        while let Some(progress) = self.checkpoint.progress {
            if !progress.lives {
                let record = lives_record(&self.lives);
                let Some(number) = self.repeat(&record, reserve) else {
                    return;
                };
                self.checkpoint.note_lives(record.len(), number);
                continue;
            }
            let Some((&id, group)) = self.groups.range(progress.cursor..).next() else {
                self.checkpoint.complete(self.open_frame());
                return;
            };
            let record = state_record(id, &group.state);
            let Some(number) = self.repeat(&record, reserve) else {
                return;
            };
            self.checkpoint.note(id, record.len(), number);
        }
    }

    /// Adds a record of state to the open frame, if that has room for it, and for `reserve` bytes
    /// more. Gives the frame's number then.
    fn repeat(&mut self, record: &[u8], reserve: usize) -> Option<u64> {
        let open = self.staging.open.as_mut();
        let open = open.expect("state goes into an open frame");
        let spent = open.state_bytes + record.len() > self.config.state_bytes_per_frame;
        let fits = open.fits(record.len() + reserve, self.config.record_bytes_max());
        if (spent && open.state_bytes > 0) || !fits {
            return None;
        }
        open.state_bytes += record.len();
        let number = open.number;
        self.append_to_open_frame(&[record], record.len());
        self.statistics.state_bytes += record.len() as u64;
        Some(number)
    }
}
