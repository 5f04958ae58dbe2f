//! Peers that know all ids and mean no good: they cost a connection, not the cluster.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};

use pontoon::transport::Hello;
use pontoon::{Config, Group, Node, NodeId};

use crate::strangers::good_hello;
use crate::{GROUP, PATIENCE, config, directory, machines, propose};

/// Three nodes with one group, and the handle of its leader.
struct Three {
    nodes: Vec<Node>,
    leader: Group,
    _directories: Vec<tempfile::TempDir>,
}

fn three() -> Three {
    let listeners: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: BTreeMap<u64, SocketAddr> = (1..)
        .zip(listeners.iter().map(|each| each.local_addr().unwrap()))
        .collect();
    let directories: Vec<_> = (0..3).map(|_| directory()).collect();
    let nodes: Vec<Node> = (1_u64..)
        .zip(listeners)
        .zip(&directories)
        .map(|((id, listener), data)| {
            let mut config: Config = config(data.path());
            config.node = id;
            let others = addresses.iter().filter(|(other, _)| **other != id);
            for (&other, &address) in others {
                config = config.peer(other, address);
            }
            Node::start_on(listener, config, machines()).unwrap()
        })
        .collect();
    let members = [1, 2, 3].map(NodeId);
    let groups: Vec<Group> = nodes
        .iter()
        .map(|node| node.create_group(GROUP, "echo", &members).wait().unwrap())
        .collect();
    let leader = loop {
        let status = |group: &Group| group.status().wait().unwrap().raft;
        let leads = |group: &&Group| status(group).leader == Some(status(group).id);
        if let Some(leader) = groups.iter().find(leads) {
            break leader.clone();
        }
        std::thread::yield_now();
    };
    propose(&leader, b"go");
    Three {
        nodes,
        leader,
        _directories: directories,
    }
}

/// Says the hello of `name` to a node.
fn connect_as(name: u64, node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(node.local_addr()).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let hello = Hello {
        node: name,
        expected_peer: node.id().0,
        ..good_hello()
    };
    // A node may close before all is written.
    let _ = stream.write_all(&hello.encode());
    stream
}

#[test]
fn idle_and_hurried_connections_in_the_names_of_peers_cost_no_leadership() {
    let three = three();
    let term = |group: &Group| group.status().wait().unwrap().raft.current_term;
    let before = term(&three.leader);
    let mut held = Vec::new();
    for round in 0..300 {
        for node in &three.nodes {
            for name in (1..=3).filter(|name| *name != node.id().0) {
                let stream = connect_as(name, node);
                // Every other one is held, as long as the node lets it.
                held.extend((round % 2 == 0).then_some(stream));
            }
        }
        let command = [round as u8];
        assert_eq!(
            three.leader.propose(command.to_vec()).wait().unwrap().reply,
            command
        );
    }
    assert_eq!(term(&three.leader), before, "no election");
    for node in &three.nodes {
        let refused = node.refused_connections();
        assert!(refused.contains_key("half_open"), "{refused:?}");
        let closed = node
            .statistics()
            .wait()
            .remove(0)
            .unwrap()
            .connections_closed;
        assert!(closed.is_empty(), "{closed:?}");
    }
}
