//! Loads that run beside the requests: the node goes on serving its parent meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use anyhow::{Result, bail, ensure};

use crate::load::{self, GroupClient, Load, Loaded};

/// The loads under way; each has a thread and the clients of its groups.
#[derive(Default)]
pub(crate) struct Background {
    loads: Vec<JoinHandle<(Loaded, Vec<GroupClient>)>>,
    /// Clients of groups without a load.
    idle: Vec<GroupClient>,
    cut: Arc<AtomicBool>,
}

impl Background {
    /// Starts loads over the clients of all groups, each behind the groups of the one before it.
    ///
    /// # Errors
    /// When loads are under way, or their groups do not follow each other from 1.
    pub(crate) fn start(&mut self, loads: Vec<Load>, clients: Vec<GroupClient>) -> Result<()> {
        ensure!(self.loads.is_empty(), "loads are under way");
        self.idle = clients;
        self.cut = Arc::default();
        let mut next = 1;
        for load in &loads {
            load.range(self.idle.len())?;
            ensure!(
                load.first_group == next,
                "a load must begin at group {next}"
            );
            next += load.groups;
        }
        for load in loads {
            let behind = self.idle.split_off(usize::try_from(load.groups)?);
            let mut clients = std::mem::replace(&mut self.idle, behind);
            let cut = Arc::clone(&self.cut);
            self.loads.push(std::thread::spawn(move || {
                let loaded = load::run(&load, &mut clients, &cut);
                (loaded, clients)
            }));
        }
        Ok(())
    }

    /// Waits until they have ended; ends them if `now` says so. Gives the clients back.
    ///
    /// # Errors
    /// When one has panicked.
    pub(crate) fn finish(&mut self, now: bool) -> Result<(Vec<Loaded>, Vec<GroupClient>)> {
        self.cut.store(now, Relaxed);
        let (mut results, mut all) = (Vec::new(), Vec::new());
        for load in self.loads.drain(..) {
            let Ok((loaded, clients)) = load.join() else {
                bail!("a load panicked; see its message above");
            };
            results.push(loaded);
            all.extend(clients);
        }
        all.append(&mut self.idle);
        Ok((results, all))
    }
}
