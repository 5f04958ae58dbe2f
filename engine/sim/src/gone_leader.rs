//! A leader that hears nobody has stepped down, and what it sent before is still on its way.

use pontoon::port::SocketId;

use crate::impairment::Impairment;
use crate::settings::{HEARTBEAT_INTERVAL, MILLISECOND};
use crate::world::World;

impl World {
    /// Whether a deaf node's earlier messages still pass slow links to others.
    ///
    /// These hear a leader as long as that takes, for a message says nothing of when it was sent,
    /// and they give no vote meanwhile (thesis 4.2.3). What a link holds up bounds how long it is.
    pub(crate) fn hears_gone_leader(&mut self) -> bool {
        let Some((deaf, Impairment::Deaf)) = self.steady.impaired else {
            return false;
        };
        let sockets = self.network.all();
        sockets
            .into_iter()
            .any(|socket| self.is_backlog_of(deaf, socket))
    }

    /// Whether more is on its way from that node to this end than passes between two heartbeats.
    fn is_backlog_of(&mut self, node: usize, socket: SocketId) -> bool {
        let Some((to, other)) = self.network.end(socket).map(|end| (end.place, end.other)) else {
            return false;
        };
        let from = self
            .network
            .end(other)
            .map(|end| self.places[end.place].node);
        let bytes = self.network.outstanding(socket) as u64;
        let (now, to) = (self.now, self.places[to].node);
        let link = self.network.links.between(node, to);
        let rate = link.map_or(0, |link| link.rate(now));
        from == Some(node) && bytes * 1_000 * MILLISECOND > rate * HEARTBEAT_INTERVAL && rate > 0
    }
}
