//! The first bytes of a connection: who talks, to whom, what for, and in which versions.

use crate::error::HelloError;
use crate::negotiation::{Features, Purpose, VersionRange};

/// Bytes of a hello. The same in every version, with the range of versions in the same place, so
/// that nodes of any two versions can tell each other apart.
pub const HELLO_BYTES: usize = 80;

/// The newest version of the wire that this build speaks.
///
/// A version is more than a layout: it is what both ends count on. Since 3 they ping each other, so
/// that one that says nothing is not there, and a group lives on the core that its mixed id says.
/// Since 4 they introduce themselves before anything else.
pub const WIRE_VERSION: u16 = 4;

/// The oldest version of the wire that this build speaks.
pub const WIRE_VERSION_MIN: u16 = 4;

/// Changes whenever the layout of a hello, a frame or a head changes.
pub const FORMAT_FINGERPRINT: u64 = 0x5054_4e66_0000_0004;

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
    /// The node that should receive this; 0 if the sender can't know it yet.
    pub expected_peer: u64,
    /// Distinguishes the lives of one node. Reserved: nothing reads it yet.
    pub incarnation: u32,
    /// What the connection is for. The accepting side repeats what the dialling side said.
    pub purpose: Purpose,
    /// Features that the sender supports.
    pub features: Features,
    /// The layout of the newest version: [`FORMAT_FINGERPRINT`].
    pub fingerprint: u64,
    /// Largest frame it accepts, in bytes.
    pub frame_bytes_max: u32,
}

impl Hello {
    /// The range of versions that the sender speaks.
    #[must_use]
    pub fn versions(&self) -> VersionRange {
        VersionRange {
            min: self.version_min,
            max: self.version_max,
        }
    }

    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(8, &self.version_min.to_le_bytes());
        put(10, &self.version_max.to_le_bytes());
        put(12, &self.core.to_le_bytes());
        put(14, &self.cores.to_le_bytes());
        put(16, &self.cluster.to_le_bytes());
        put(32, &self.node.to_le_bytes());
        put(40, &self.expected_peer.to_le_bytes());
        put(48, &self.incarnation.to_le_bytes());
        put(52, &self.purpose.code().to_le_bytes());
        put(56, &self.features.0.to_le_bytes());
        put(64, &self.fingerprint.to_le_bytes());
        put(72, &self.frame_bytes_max.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..76]);
        bytes[76..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Checks whether a hello can begin with these bytes, so that another protocol on the port is
    /// found out before it has sent as much as a hello.
    ///
    /// # Errors
    /// [`HelloError::NotPontoon`] if it can't.
    pub fn check_prefix(bytes: &[u8]) -> Result<(), HelloError> {
        let compared = bytes.len().min(MAGIC.len());
        if bytes[..compared] == MAGIC[..compared] {
            return Ok(());
        }
        let mut first = [0; 8];
        first[..compared].copy_from_slice(&bytes[..compared]);
        Err(HelloError::NotPontoon { first })
    }

    /// Reads a hello. Whether it is acceptable is for [`Handshake`](crate::Handshake) to say.
    ///
    /// # Errors
    /// If the bytes are not a hello, or damaged.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HelloError> {
        let first = array(bytes, 0);
        if first != MAGIC {
            return Err(HelloError::NotPontoon { first });
        }
        if crc32c::crc32c(&bytes[..76]) != u32::from_le_bytes(array(bytes, 76)) {
            return Err(HelloError::Checksum);
        }
        let u16_at = |at| u16::from_le_bytes(array(bytes, at));
        let u32_at = |at| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at| u64::from_le_bytes(array(bytes, at));
        Ok(Self {
            version_min: u16_at(8),
            version_max: u16_at(10),
            core: u16_at(12),
            cores: u16_at(14),
            cluster: u128::from_le_bytes(array(bytes, 16)),
            node: u64_at(32),
            expected_peer: u64_at(40),
            incarnation: u32_at(48),
            purpose: Purpose::from_code(u32_at(52)),
            features: Features(u64_at(56)),
            fingerprint: u64_at(64),
            frame_bytes_max: u32_at(72),
        })
    }
}

fn array<const N: usize>(bytes: &[u8; HELLO_BYTES], at: usize) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(&bytes[at..at + N]);
    found
}
