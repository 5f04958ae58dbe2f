//! The judgement of a peer's hello: refused with a typed reason, or agreed with.

use crate::error::HelloError;
use crate::hello::{HELLO_BYTES, Hello};
use crate::negotiation::{Features, Purpose};

/// What two hellos agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The newest wire version that both sides speak.
    pub version: u16,
    /// The features that both sides support.
    pub features: Features,
    /// The peer's hello.
    pub peer: Hello,
}

/// One side of the exchange of hellos. The dialling side speaks first; the accepting side answers
/// only a hello that it accepts, and says nothing to anyone else.
#[derive(Clone, Debug)]
pub struct Handshake {
    ours: Hello,
    known_peers: Vec<u64>,
    purposes: Vec<Purpose>,
}

impl Handshake {
    /// Dials: `ours.expected_peer` must answer, for the purpose of `ours`.
    #[must_use]
    pub fn dial(ours: Hello) -> Self {
        Self {
            known_peers: vec![ours.expected_peer],
            purposes: vec![ours.purpose],
            ours,
        }
    }

    /// Accepts any of these peers, for any of these purposes.
    #[must_use]
    pub fn accept(ours: Hello, known_peers: Vec<u64>, purposes: &[Purpose]) -> Self {
        Self {
            ours,
            known_peers,
            purposes: purposes.to_vec(),
        }
    }

    /// The hello of the dialling side.
    #[must_use]
    pub fn greeting(&self) -> Hello {
        self.ours
    }

    /// The accepting side's hello to a peer whose hello was accepted: addressed to it, for the
    /// core and the purpose that it asked for.
    #[must_use]
    pub fn answer(&self, agreed: &Agreement) -> Hello {
        Hello {
            core: agreed.peer.core,
            expected_peer: agreed.peer.node,
            purpose: agreed.peer.purpose,
            ..self.ours
        }
    }

    /// Judges the peer's hello.
    ///
    /// # Errors
    /// Why the connection must be closed.
    pub fn receive(&self, bytes: &[u8; HELLO_BYTES]) -> Result<Agreement, HelloError> {
        let theirs = Hello::decode(bytes)?;
        let version = self.check_format(&theirs)?;
        self.check_identity(&theirs)?;
        if !self.purposes.contains(&theirs.purpose) {
            let purpose = theirs.purpose;
            return Err(HelloError::Purpose { purpose });
        }
        self.check_configuration(&theirs)?;
        Ok(Agreement {
            version,
            features: theirs.features.intersection(self.ours.features),
            peer: theirs,
        })
    }

    /// Gives the newest common version. Fingerprints can be compared only between nodes with the
    /// same newest version: a newer node still speaks the older layout, and names its newest.
    fn check_format(&self, theirs: &Hello) -> Result<u16, HelloError> {
        let ours = &self.ours;
        let Some(version) = ours.versions().newest_common(theirs.versions()) else {
            let (theirs, ours) = (theirs.versions(), ours.versions());
            return Err(HelloError::Version { theirs, ours });
        };
        if theirs.version_max == ours.version_max && theirs.fingerprint != ours.fingerprint {
            let (theirs, ours) = (theirs.fingerprint, ours.fingerprint);
            return Err(HelloError::Fingerprint { theirs, ours });
        }
        Ok(version)
    }

    fn check_identity(&self, theirs: &Hello) -> Result<(), HelloError> {
        let ours = &self.ours;
        if theirs.cluster != ours.cluster {
            let (theirs, ours) = (theirs.cluster, ours.cluster);
            return Err(HelloError::WrongCluster { theirs, ours });
        }
        if theirs.expected_peer != 0 && theirs.expected_peer != ours.node {
            return Err(HelloError::WrongNode {
                theirs: ours.node,
                expected: theirs.expected_peer,
            });
        }
        if self.known_peers.contains(&theirs.node) {
            return Ok(());
        }
        let theirs = theirs.node;
        Err(match self.known_peers[..] {
            [expected] => HelloError::WrongNode { theirs, expected },
            _ => HelloError::UnknownNode { theirs },
        })
    }

    fn check_configuration(&self, theirs: &Hello) -> Result<(), HelloError> {
        let ours = &self.ours;
        if theirs.cores != ours.cores || theirs.core >= ours.cores {
            return Err(HelloError::Cores {
                core: theirs.core,
                theirs: theirs.cores,
                ours: ours.cores,
            });
        }
        if theirs.frame_bytes_max != ours.frame_bytes_max {
            let (theirs, ours) = (theirs.frame_bytes_max, ours.frame_bytes_max);
            return Err(HelloError::FrameBytes { theirs, ours });
        }
        Ok(())
    }
}
