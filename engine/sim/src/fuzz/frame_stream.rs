//! Arbitrary bytes from a peer, in arbitrary pieces: through a connection alone, and into a shard.

use pontoon::transport::{Connection, ConnectionError, FrameLimits, Head};

use super::bytes::Bytes;
use super::fix_checksums;
use super::single_shard::SingleShard;
use crate::random::Random;
use crate::settings::LIMITS;

/// Heads and records of a frame that was taken.
type Taken = (Vec<Head>, Vec<u8>);

/// Longer streams show nothing that shorter ones don't.
const STREAM_BYTES_MAX: usize = 48 << 10;

/// The first byte is a set of flags (bit 0 has checksums fixed, bit 1 lets time pass between the
/// pieces), the second decides where the bytes are cut, the third holds the sender (low half) and
/// the receiver (high half). Then comes what the sender sends.
pub fn frame_stream(input: &[u8]) {
    let mut input = Bytes::new(input);
    let (flags, cuts, ends) = (input.byte(), input.byte(), input.byte());
    let mut stream = input.take(STREAM_BYTES_MAX).to_vec();
    if flags & 1 != 0 {
        fix_checksums::frames(&mut stream);
    }
    let (taken, end) = receive(&stream, || usize::MAX);
    let mut random = Random::new(cuts.into());
    let again = receive(&stream, || 1 + random.below(700));
    assert_eq!(again, (taken.clone(), end.clone()), "cuts don't matter");
    let again = receive(&stream[..stream.len().min(700)], || 1);
    assert!(taken.starts_with(&again.0), "cuts don't matter");
    check_sent_again(&taken, &stream);

    let mut shard = SingleShard::new(ends & 15, ends >> 4);
    let mut random = Random::new(cuts.into());
    let mut rest = &stream[..];
    while !rest.is_empty() && shard.listens() {
        let piece = (1 + random.below(2_000)).min(rest.len());
        rest = &rest[shard.receive(&rest[..piece])..];
        if flags & 2 != 0 {
            shard.pass(random.below(80) as u64);
        }
    }
    assert!(
        end.is_none() || !shard.listens(),
        "a shard goes on after {end:?}"
    );
    shard.pass(400);
}

/// What a connection makes of bytes that come in pieces: the frames, and how it ended.
fn receive(
    stream: &[u8],
    mut piece: impl FnMut() -> usize,
) -> (Vec<Taken>, Option<ConnectionError>) {
    let FrameLimits {
        frame_bytes_max,
        receive_ahead_bytes,
    } = LIMITS;
    let memory = (frame_bytes_max + receive_ahead_bytes) as usize;
    let mut connection = Connection::<Vec<u8>>::new(LIMITS);
    let (mut taken, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let mut buffer = connection.receive().expect("no receive is under way");
        let free = buffer.free().len();
        assert!(
            (receive_ahead_bytes as usize..=memory).contains(&free),
            "a connection makes room, and no more than agreed: {free}"
        );
        let count = piece().min(rest.len()).min(free);
        buffer.free()[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        let received = connection.on_received(buffer, Ok(count));
        assert_eq!(received, Ok(()), "bytes came");
        loop {
            match connection.next_frame() {
                Ok(Some(frame)) => taken.push((frame.heads().collect(), frame.records().to_vec())),
                Ok(None) => break,
                Err(error) => {
                    let again = connection.next_frame().map(|frame| frame.is_some());
                    assert_eq!(again, Err(error.clone()), "an error is for good");
                    assert!(!error.label().is_empty() && !error.to_string().is_empty());
                    return (taken, Some(error));
                }
            }
        }
    }
    (taken, None)
}

/// Frames that were taken are the very bytes that a sender of the same would have sent.
fn check_sent_again(taken: &[Taken], stream: &[u8]) {
    let mut sender = Connection::<Vec<u8>>::new(LIMITS);
    let mut at = 0;
    for (heads, records) in taken {
        for head in heads {
            sender.push_head(head);
        }
        sender.push_piece(records.clone());
        sender.finish_frame();
        let batch = sender.send().expect("a frame was finished");
        let bytes: Vec<u8> = batch.slices().flatten().copied().collect();
        let end = at + bytes.len();
        assert!(
            stream.get(at..end) == Some(&bytes[..]),
            "a frame at {at} comes back as it was"
        );
        at = end;
        let sent = sender.on_sent(batch, Ok(bytes.len()));
        assert_eq!(sent, Ok(()), "everything was sent");
    }
}
