//! What application threads ask for, taken from the inbox in batches.

use super::Shard;
use crate::request::Request;

/// Most requests taken in one turn, so that completions are not kept waiting.
const REQUESTS_PER_TURN_MAX: usize = 1024;

impl Shard {
    /// Takes what waits. True if there may be more.
    pub(super) fn take_requests(&mut self) -> bool {
        if self.holds_back_requests() {
            return false;
        }
        let mut left = REQUESTS_PER_TURN_MAX;
        while left > 0 {
            let Ok(request) = self.inbox.requests.try_recv() else {
                break;
            };
            left -= 1;
            self.handle_request(request);
        }
        self.groups.propose_all();
        left == 0
    }

    fn handle_request(&mut self, request: Request) {
        if let Request::Propose {
            group,
            command,
            reply,
        } = request
        {
            return self.groups.take_proposal(group, command, reply);
        }
        // Proposals that came before it go before it.
        self.groups.propose_all();
        match request {
            Request::Propose { .. } => {}
            Request::CreateGroup {
                group,
                definition,
                reply,
            } => self.groups.create_group(group, definition, reply),
            Request::Status { group, reply } => {
                let _ = reply.send(self.groups.status(group));
            }
            Request::Campaign { group } => {
                if let Some(slot) = self.groups.slot(group) {
                    self.groups.campaign(slot);
                }
            }
            Request::Transfer { group, to, reply } => {
                let _ = reply.send(self.groups.transfer(group, to));
            }
            Request::Statistics { reply } => {
                let _ = reply.send(Some(self.statistics()));
            }
            Request::Stop => self.groups.stop(),
        }
    }
}
