//! `SyncMethod` of the log, as JSON.

use pontoon::storage::SyncMethod;
use serde::{Deserialize, Serialize};

/// JSON form of [`SyncMethod`], for `#[serde(with)]`: storage itself knows no serialisation.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SyncMethod")]
pub(crate) enum SyncMethodSerde {
    WriteDsync,
    WriteThenFdatasync,
}
