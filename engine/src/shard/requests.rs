//! What application threads ask for, taken from the inbox in batches.

use super::Shard;
use super::creations::Creation;
use crate::request::Request;

/// Most proposals, and most other requests, taken in one turn, so that completions are not kept
/// waiting.
const PER_TURN_MAX: usize = 1024;

impl Shard {
    /// Takes what waits. True if there may be more.
    pub(super) fn take_requests(&mut self) -> bool {
        for _ in 0..PER_TURN_MAX {
            let Some(request) = self.inbox.next_request() else {
                break;
            };
            self.handle_request(request);
        }
        self.groups.make_ordered_groups();
        if !self.holds_back_proposals() {
            for _ in 0..PER_TURN_MAX {
                let Some(proposal) = self.inbox.next_proposal() else {
                    break;
                };
                let bytes_left = self.inbox.bytes_left();
                self.groups.take_proposal(proposal, bytes_left);
            }
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
            Request::Stop => self.groups.begin_stop(),
        }
    }
}
