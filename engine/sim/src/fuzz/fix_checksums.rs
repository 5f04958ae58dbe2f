//! Makes bytes sound as far as checksums and lengths go, so that what lies behind them is reached.
//! Everything else stays as it was.

use pontoon::storage::LogIdentity;
use pontoon::storage::record::{self, HEADER_BYTES};
use pontoon::transport::{FRAME_HEADER_BYTES, HEAD_BYTES, HELLO_BYTES};

const BLOCK: usize = 4096;
const SEGMENT_FRAME_HEADER_BYTES: usize = 64;
/// The kind of head that records follow, as the engine has it.
const APPEND_ENTRIES: u8 = 3;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u64_at(bytes, at) as u32
}

/// A hello: magic and checksum.
pub(super) fn hello(bytes: &mut [u8; HELLO_BYTES]) {
    put(bytes, 0, b"PONTOON\0");
    let checksum = crc32c::crc32c(&bytes[..76]);
    put(bytes, 76, &checksum.to_le_bytes());
}

/// Frames of a connection, one after another, until too little is left for one. Records get the
/// group and the index that their head asks for.
pub(super) fn frames(stream: &mut [u8]) {
    let (mut rest, mut sequence) = (stream, 0_u64);
    while rest.len() >= FRAME_HEADER_BYTES + HEAD_BYTES {
        let room = (rest.len() - FRAME_HEADER_BYTES) / HEAD_BYTES;
        let heads = usize::from(rest[6]).clamp(1, room);
        let heads_end = FRAME_HEADER_BYTES + heads * HEAD_BYTES;
        let asked = u32_at(rest, 8) as usize % (64 << 10);
        let asked = asked.min(rest.len() - heads_end);
        put(rest, 0, b"PTNf\x01\0");
        put(rest, 6, &(heads as u16).to_le_bytes());
        put(rest, 12, &sequence.to_le_bytes());
        put(rest, 20, &[0; 8]);
        let (head_bytes, records) = rest.split_at_mut(heads_end);
        let records_bytes = frame_records(head_bytes, &mut records[..asked]);
        put(rest, 8, &(records_bytes as u32).to_le_bytes());
        let begun = crc32c::crc32c(&rest[..28]);
        let checksum = crc32c::crc32c_append(begun, &rest[FRAME_HEADER_BYTES..heads_end]);
        put(rest, 28, &checksum.to_le_bytes());
        rest = &mut rest[heads_end + records_bytes..];
        sequence += 1;
    }
}

/// Gives how many bytes the heads' records take.
fn frame_records(head_bytes: &mut [u8], records: &mut [u8]) -> usize {
    let mut at = 0;
    for head in head_bytes[FRAME_HEADER_BYTES..].chunks_exact_mut(HEAD_BYTES) {
        put(head, 10, &[0; 2]);
        let mut count = 0;
        if head[8] == APPEND_ENTRIES {
            let (group, mut index) = (u64_at(head, 0), u64_at(head, 24));
            while count < u32_at(head, 12) && at + HEADER_BYTES <= records.len() {
                index = index.wrapping_add(1);
                put(records, at, &group.to_le_bytes());
                put(records, at + 8, &index.to_le_bytes());
                at += one_record(&mut records[at..]);
                count += 1;
            }
        }
        put(head, 12, &count.to_le_bytes());
    }
    at
}

/// A record at the start of at least 32 bytes: length, checksum, padding. Gives its length.
fn one_record(bytes: &mut [u8]) -> usize {
    let word = u32_at(bytes, 24);
    let room = bytes.len() / record::ALIGN * record::ALIGN - HEADER_BYTES;
    let payload = ((word & 0x00ff_ffff) as usize).min(room);
    let word = payload as u32 | word & 0xff00_0000;
    put(bytes, 24, &word.to_le_bytes());
    let begun = crc32c::crc32c(&bytes[..28]);
    let checksum = crc32c::crc32c_append(begun, &bytes[HEADER_BYTES..HEADER_BYTES + payload]);
    put(bytes, 28, &checksum.to_le_bytes());
    let encoded = record::encoded_bytes(payload);
    bytes[HEADER_BYTES + payload..encoded].fill(0);
    encoded
}

/// A segment of this identity: its header, unless it is blank, and a frame at every block that
/// holds something and is not covered by the frame before.
pub(super) fn segment(bytes: &mut [u8], identity: &LogIdentity) {
    if bytes[..BLOCK].iter().any(|byte| *byte != 0) {
        segment_header(bytes, identity);
    }
    let (sequence, epoch) = (u64_at(bytes, 56), u64_at(bytes, 64));
    let (mut offset, mut previous) = (BLOCK, None);
    while offset < bytes.len() {
        if bytes[offset..offset + SEGMENT_FRAME_HEADER_BYTES] == [0; SEGMENT_FRAME_HEADER_BYTES] {
            offset += BLOCK;
            continue;
        }
        let salt = salt(identity, epoch, sequence, offset as u64);
        let frame = &mut bytes[offset..];
        put(frame, 8, &sequence.to_le_bytes());
        put(frame, 48, &epoch.to_le_bytes());
        if let Some(previous) = previous {
            put(frame, 40, &u32::to_le_bytes(previous));
        }
        let (checksum, length) = segment_frame(frame, salt);
        previous = Some(checksum);
        offset += length.next_multiple_of(BLOCK);
    }
}

fn segment_header(bytes: &mut [u8], identity: &LogIdentity) {
    put(bytes, 0, b"PONTOSEG\x02\0\0\0");
    put(bytes, 12, &(BLOCK as u32).to_le_bytes());
    put(bytes, 16, &identity.cluster.to_le_bytes());
    put(bytes, 32, &identity.node.to_le_bytes());
    put(bytes, 40, &identity.core.to_le_bytes());
    put(bytes, 42, &identity.cores.to_le_bytes());
    let segment_bytes = bytes.len() as u64;
    put(bytes, 48, &segment_bytes.to_le_bytes());
    let ends = u32_at(bytes, 96) % 65;
    put(bytes, 96, &ends.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..BLOCK - 4]);
    put(bytes, BLOCK - 4, &checksum.to_le_bytes());
}

/// Gives the frame's checksum and its length.
fn segment_frame(frame: &mut [u8], salt: u32) -> (u32, usize) {
    put(frame, 0, b"PFRM\x02");
    frame[5] = 1 + (frame[5].wrapping_sub(1) & 1);
    let room = frame.len() - SEGMENT_FRAME_HEADER_BYTES;
    let asked = (u32_at(frame, 32) as usize).min(room);
    let payload = &mut frame[SEGMENT_FRAME_HEADER_BYTES..][..asked];
    let (mut at, mut count, mut sum) = (0, 0_u32, 0);
    while at + HEADER_BYTES <= payload.len() {
        let length = one_record(&mut payload[at..]);
        sum = crc32c::crc32c_append(sum, &payload[at..at + HEADER_BYTES]);
        at += length;
        count += 1;
    }
    put(frame, 32, &(at as u32).to_le_bytes());
    put(frame, 36, &count.to_le_bytes());
    put(frame, 44, &(sum ^ salt).to_le_bytes());
    let checksum = crc32c::crc32c_append(salt, &frame[..60]);
    put(frame, 60, &checksum.to_le_bytes());
    (checksum, SEGMENT_FRAME_HEADER_BYTES + at)
}

fn salt(identity: &LogIdentity, epoch: u64, sequence: u64, offset: u64) -> u32 {
    let mut salt = crc32c::crc32c(&identity.cluster.to_le_bytes());
    salt = crc32c::crc32c_append(salt, &identity.node.to_le_bytes());
    salt = crc32c::crc32c_append(salt, &identity.core.to_le_bytes());
    for word in [epoch, sequence, offset] {
        salt = crc32c::crc32c_append(salt, &word.to_le_bytes());
    }
    salt
}
