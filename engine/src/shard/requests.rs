//! What application threads ask for, taken from the inbox in batches.

use super::Shard;
use super::creations::Creation;
use crate::request::Request;

/// Most of them taken in one turn, proposals apart, so that completions are not kept waiting.
const PER_TURN_MAX: usize = 1024;

impl Shard {
    /// Takes what waits; nothing once the log has failed, so that all of it is answered so. True if
    /// there may be more.
    pub(super) fn take_requests(&mut self) -> bool {
        for _ in 0..PER_TURN_MAX {
            if self.groups.failed {
                break;
            }
            let Some(request) = self.inbox.next_request() else {
                break;
            };
            self.handle_request(request);
        }
        self.groups.make_ordered_groups();
        if self.inbox.is_told_to_stop() {
            self.groups.begin_stop();
        }
        if !self.holds_back_proposals() {
            self.groups.take_proposals(&self.inbox);
            self.groups.propose_all();
        }
        self.has_requests() || !self.groups.creations.is_empty()
    }

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::CreateGroup {
                group,
                definition,
                reply,
            } => self.groups.order_group(Creation {
                group,
                definition,
                reply,
            }),
            Request::Status { group, reply } => {
                let _ = reply.send(self.groups.status(group));
            }
            Request::Leader { group, reply } => self.groups.await_leader(group, reply),
            Request::Campaign { group, reply } => {
                let _ = reply.send(self.groups.campaign_if_possible(group));
            }
            Request::Transfer { group, to, reply } => {
                let _ = reply.send(self.groups.transfer(group, to));
            }
            Request::Statistics { reply } => {
                let _ = reply.send(Ok(self.statistics()));
            }
        }
    }
}
