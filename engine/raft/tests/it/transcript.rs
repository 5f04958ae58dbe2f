//! Stories of the field as text: what is done to a cluster, and each message and write after it.
//!
//! A script is written beside the one in `tests/script` and compared with it; read them to see what
//! a rule looks like on the wire. `UPDATE_EXPECT=1 cargo test -p pontoon-raft` writes them anew.

use expect_test::expect_file;
use pontoon_raft::{NodeId, Time};

use crate::cluster::Cluster;

/// A cluster of three, and the verbs of a story.
struct Story {
    cluster: Cluster,
}

impl Story {
    fn of_three() -> Self {
        let cluster = Cluster::new(3, 0);
        Self { cluster }
    }

    /// The same after an election, which the script leaves out.
    fn led_by_first() -> Self {
        let mut story = Self::of_three();
        story.campaigns(1);
        story.cluster.transcript.clear();
        story.tell("1 leads term 1; its first entry is committed");
        story
    }

    fn tell(&mut self, line: &str) -> &mut Self {
        self.cluster.transcript.push_str(line);
        self.cluster.transcript.push('\n');
        self
    }

    /// Replica `id` campaigns, and everything that follows happens.
    fn campaigns(&mut self, id: u64) -> &mut Self {
        self.tell(&format!("{id} campaigns"));
        self.cluster.call(NodeId(id), &[], |raft, now, output| {
            raft.campaign(now, output)
        });
        self.settles()
    }

    /// Replica `id` proposes so many entries; nothing is delivered yet.
    fn proposes(&mut self, id: u64, count: u64) -> &mut Self {
        self.tell(&format!("{id} proposes {count}"));
        self.cluster.propose(NodeId(id), count);
        self
    }

    fn transfers(&mut self, id: u64, to: u64) -> &mut Self {
        self.tell(&format!("{id} transfers leadership to {to}"));
        self.cluster.call(NodeId(id), &[], |raft, now, output| {
            raft.transfer_leadership(now, NodeId(to), output)
                .expect("it leads, and the target is a voter");
        });
        self.settles()
    }

    /// Time passes, and this replica notices.
    fn ticks(&mut self, id: u64, after: u64) -> &mut Self {
        self.passes(id, after).settles()
    }

    /// The same, with nothing delivered yet.
    fn passes(&mut self, id: u64, after: u64) -> &mut Self {
        self.cluster.now = Time(self.cluster.now.0 + after);
        self.tell(&format!("{after} later {id} looks at the clock"));
        self.cluster
            .call(NodeId(id), &[], |raft, now, output| raft.tick(now, output));
        self
    }

    /// What is under way to and from this replica is lost.
    fn cut_off(&mut self, id: u64) -> &mut Self {
        self.tell(&format!("{id} is cut off"));
        for other in (1..=3).filter(|other| *other != id) {
            self.cluster.disconnect(NodeId(id), NodeId(other));
        }
        self
    }

    fn persists(&mut self, id: u64) -> &mut Self {
        self.cluster.persist_one(NodeId(id));
        self
    }

    /// Everything is delivered and persisted.
    fn settles(&mut self) -> &mut Self {
        self.cluster.settle();
        self
    }

    fn commit_index(&self, id: u64) -> u64 {
        self.cluster.raft(id).commit_index().0
    }
}

#[test]
fn three_replicas_elect_a_leader_and_commit() {
    let mut story = Story::of_three();
    story.campaigns(1).proposes(1, 2).settles();
    assert_eq!(story.commit_index(1), 3);
    expect_file!["../script/elect_and_commit.txt"].assert_eq(&story.cluster.transcript);
}

#[test]
fn a_new_leader_replaces_what_an_old_one_could_not_commit() {
    let mut story = Story::of_three();
    story.campaigns(1).proposes(1, 4).persists(1).cut_off(1);
    story.cluster.now = Time(5_000);
    story.campaigns(2).proposes(2, 1).settles();
    assert_eq!(story.commit_index(2), 3);
    let [old, new] = [1, 2].map(|id| story.cluster.raft(id).last_index());
    assert_eq!(old, new);
    expect_file!["../script/replace_uncommitted.txt"].assert_eq(&story.cluster.transcript);
}

#[test]
fn followers_learn_of_the_commit_with_the_next_heartbeat() {
    let mut story = Story::led_by_first();
    story.proposes(1, 1).settles();
    assert_eq!((story.commit_index(1), story.commit_index(2)), (2, 1));
    story.ticks(1, 100);
    assert_eq!(story.commit_index(2), 2);
    expect_file!["../script/commit_by_heartbeat.txt"].assert_eq(&story.cluster.transcript);
}

#[test]
fn a_lost_message_is_found_by_a_heartbeat_and_probed_for() {
    let mut story = Story::led_by_first();
    story.proposes(1, 1);
    story.tell("what was sent to 3 is lost, and nobody is told");
    story.cluster.links.remove(&(NodeId(1), NodeId(3)));
    story.settles().ticks(1, 100);
    let [leader, follower] = [1, 3].map(|id| story.cluster.raft(id).last_index());
    assert_eq!(leader, follower);
    expect_file!["../script/probe_after_loss.txt"].assert_eq(&story.cluster.transcript);
}

#[test]
fn leadership_is_transferred_without_a_pre_vote() {
    let mut story = Story::led_by_first();
    story.transfers(1, 3);
    assert!(story.cluster.raft(3).is_leader());
    expect_file!["../script/transfer.txt"].assert_eq(&story.cluster.transcript);
}

#[test]
fn one_that_was_cut_off_comes_back_without_disturbing_the_leader() {
    let mut story = Story::led_by_first();
    story.cut_off(3);
    // Within an election timeout of hearing from the leader, the others refuse a pre-vote.
    story.campaigns(3);
    assert!(story.cluster.raft(1).is_leader());
    assert_eq!(story.cluster.raft(3).current_term().0, 1);
    expect_file!["../script/pre_vote_refused.txt"].assert_eq(&story.cluster.transcript);
}

#[test]
fn a_leader_that_hears_nobody_steps_down() {
    let mut story = Story::led_by_first();
    story.cut_off(1).passes(1, 1_000);
    let leads = story.cluster.raft(1).is_leader();
    story.tell(&format!("1 leads: {leads}"));
    assert!(!story.cluster.raft(1).is_leader());
    expect_file!["../script/check_quorum.txt"].assert_eq(&story.cluster.transcript);
}
