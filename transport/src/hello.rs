//! The first bytes of a connection: who talks, to whom, and in which version.

use crate::error::HelloError;

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 80;

/// The version of the wire that this build speaks.
pub const WIRE_VERSION: u16 = 1;

/// Changes whenever the layout of a head or a frame changes.
pub const FORMAT_FINGERPRINT: u64 = 0x5054_4e66_0000_0001;

const MAGIC: [u8; 8] = *b"PONTOON\0";

/// What one side says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest wire version spoken.
    pub version_min: u16,
    /// Newest wire version spoken.
    pub version_max: u16,
    /// The core this connection ends at.
    pub core: u16,
    /// Number of cores of the node.
    pub cores: u16,
    /// The cluster.
    pub cluster: u128,
    /// The node.
    pub node: u64,
    /// Who it means to talk to; 0 if it can't know yet.
    pub expected_peer: u64,
    /// Distinguishes the lives of one node.
    pub incarnation: u64,
    /// Optional features, one bit each.
    pub features: u64,
    /// [`FORMAT_FINGERPRINT`].
    pub fingerprint: u64,
    /// Largest frame it accepts, in bytes.
    pub frame_bytes_max: u32,
}

impl Hello {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        let shorts = [self.version_min, self.version_max, self.core, self.cores];
        for (place, value) in bytes[8..16].chunks_exact_mut(2).zip(shorts) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes[16..32].copy_from_slice(&self.cluster.to_le_bytes());
        let longs = [
            self.node,
            self.expected_peer,
            self.incarnation,
            self.features,
            self.fingerprint,
        ];
        for (place, value) in bytes[32..72].chunks_exact_mut(8).zip(longs) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes[72..76].copy_from_slice(&self.frame_bytes_max.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..76]);
        bytes[76..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Whether these may be the first bytes of a hello. Something else that talks to the port is
    /// found out before it has sent as much as a hello has.
    ///
    /// # Errors
    /// If they can't be.
    pub fn check_prefix(bytes: &[u8]) -> Result<(), HelloError> {
        let compared = bytes.len().min(MAGIC.len());
        if bytes[..compared] == MAGIC[..compared] {
            return Ok(());
        }
        let mut first = [0; 8];
        first[..compared].copy_from_slice(&bytes[..compared]);
        Err(HelloError::NotPontoon { first })
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// If the bytes are none, or damaged.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HelloError> {
        let first = array(bytes, 0);
        if first != MAGIC {
            return Err(HelloError::NotPontoon { first });
        }
        if crc32c::crc32c(&bytes[..76]) != u32::from_le_bytes(array(bytes, 76)) {
            return Err(HelloError::Checksum);
        }
        let short = |at| u16::from_le_bytes(array(bytes, at));
        let long = |at| u64::from_le_bytes(array(bytes, at));
        Ok(Self {
            version_min: short(8),
            version_max: short(10),
            core: short(12),
            cores: short(14),
            cluster: u128::from_le_bytes(array(bytes, 16)),
            node: long(32),
            expected_peer: long(40),
            incarnation: long(48),
            features: long(56),
            fingerprint: long(64),
            frame_bytes_max: u32::from_le_bytes(array(bytes, 72)),
        })
    }
}

fn array<const N: usize>(bytes: &[u8; HELLO_BYTES], at: usize) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(&bytes[at..at + N]);
    found
}

/// One side of the exchange of hellos. The dialling side speaks first; the accepting side answers
/// only a hello that it accepts, and says nothing to anyone else.
#[derive(Clone, Debug)]
pub struct Handshake {
    ours: Hello,
    known_peers: Vec<u64>,
}

impl Handshake {
    /// Dials: `ours.expected_peer` names who must answer.
    #[must_use]
    pub fn dial(ours: Hello) -> Self {
        Self {
            known_peers: vec![ours.expected_peer],
            ours,
        }
    }

    /// Accepts any of these peers.
    #[must_use]
    pub fn accept(ours: Hello, known_peers: Vec<u64>) -> Self {
        Self { ours, known_peers }
    }

    /// Our hello, addressed to this peer.
    #[must_use]
    pub fn to_send(&self, peer: u64) -> [u8; HELLO_BYTES] {
        Hello {
            expected_peer: peer,
            ..self.ours
        }
        .encode()
    }

    /// Judges the peer's hello.
    ///
    /// # Errors
    /// Why the connection must be closed.
    pub fn receive(&self, bytes: &[u8; HELLO_BYTES]) -> Result<Hello, HelloError> {
        let theirs = Hello::decode(bytes)?;
        let ours = &self.ours;
        if theirs.version_min > ours.version_max || theirs.version_max < ours.version_min {
            let (min, max) = (theirs.version_min, theirs.version_max);
            return Err(HelloError::Version {
                min,
                max,
                ours: ours.version_max,
            });
        }
        if theirs.fingerprint != ours.fingerprint {
            let (theirs, ours) = (theirs.fingerprint, ours.fingerprint);
            return Err(HelloError::Fingerprint { theirs, ours });
        }
        if theirs.cluster != ours.cluster {
            let (theirs, ours) = (theirs.cluster, ours.cluster);
            return Err(HelloError::WrongCluster { theirs, ours });
        }
        if theirs.expected_peer != 0 && theirs.expected_peer != ours.node {
            let expected = theirs.expected_peer;
            return Err(HelloError::WrongNode {
                theirs: ours.node,
                expected,
            });
        }
        if !self.known_peers.contains(&theirs.node) {
            return Err(match self.known_peers[..] {
                [expected] => HelloError::WrongNode {
                    theirs: theirs.node,
                    expected,
                },
                _ => HelloError::UnknownNode {
                    theirs: theirs.node,
                },
            });
        }
        if theirs.cores != ours.cores || theirs.core >= ours.cores {
            let (core, theirs) = (theirs.core, theirs.cores);
            return Err(HelloError::Cores {
                core,
                theirs,
                ours: ours.cores,
            });
        }
        if theirs.frame_bytes_max != ours.frame_bytes_max {
            let (theirs, ours) = (theirs.frame_bytes_max, ours.frame_bytes_max);
            return Err(HelloError::FrameBytes { theirs, ours });
        }
        Ok(theirs)
    }
}
