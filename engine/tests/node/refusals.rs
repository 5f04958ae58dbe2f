//! What a node refuses when it starts, and that it says why.

use std::net::TcpListener;
use std::path::Path;

use pontoon::{Config, CreateError, GroupId, Machines, Node, NodeId, Rejection};

use crate::{GROUP, alone, config, directory, machines, propose};

fn refused(config: Config) -> String {
    match Node::start(config, machines()) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_directory_that_is_in_use_is_refused() {
    let data = directory();
    let (_node, _) = alone(config(data.path()));
    let message = refused(config(data.path()));
    assert!(message.contains("in use"), "{message}");
}

#[test]
fn a_directory_of_another_node_cluster_or_core_count_is_refused_with_both_values() {
    let data = directory();
    let (node, _) = alone(config(data.path()));
    node.stop().unwrap();
    let other_node = Config {
        node: 2,
        ..config(data.path())
    };
    let message = refused(other_node);
    assert!(
        message.contains("node 1") && message.contains("node 2"),
        "{message}"
    );
    let other_cluster = Config {
        cluster: 0xDEF,
        ..config(data.path())
    };
    let message = refused(other_cluster);
    assert!(message.contains("cluster"), "{message}");
    let message = refused(config(data.path()).cores(2));
    assert!(
        message.contains("core count 1") && message.contains("core count 2"),
        "{message}"
    );
    let mut other_size = config(data.path());
    other_size.log.segment_bytes = bytesize::ByteSize::mib(16);
    let message = refused(other_size);
    assert!(message.contains("segment_bytes"), "{message}");
    let (node, group) = alone(config(data.path()));
    propose(&group, b"it is as it was");
    node.stop().unwrap();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let data = directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config {
        listen: address,
        ..config(data.path())
    };
    let message = refused(config);
    assert!(message.contains(&address.to_string()), "{message}");
}

#[test]
fn a_file_system_without_direct_io_is_refused_by_name() {
    // /proc takes no files at all; where it is not mounted there is nothing to show.
    if Path::new("/proc/self").exists() {
        let message = refused(config(Path::new("/proc/pontoon")));
        assert!(message.contains("/proc/pontoon"), "{message}");
    }
}

#[test]
fn a_group_that_can_t_be_is_refused_and_a_large_command_too() {
    let data = directory();
    let (node, group) = alone(config(data.path()));
    assert!(matches!(
        node.create_group(GROUP, "echo", &[NodeId(1), NodeId(2)])
            .wait(),
        Err(CreateError::Exists { .. })
    ));
    assert!(matches!(
        node.create_group(pontoon::GroupId(9), "echo", &[NodeId(2)])
            .wait(),
        Err(CreateError::Members { .. })
    ));
    assert!(matches!(
        node.create_group(pontoon::GroupId(9), "parrot", &[NodeId(1)])
            .wait(),
        Err(CreateError::UnknownKind { .. })
    ));
    propose(&group, b"go");
    let largest = group.propose(vec![7; 256 << 10]).wait().unwrap();
    assert_eq!(largest.reply.len(), 256 << 10);
    let too_large = group.propose(vec![7; (256 << 10) + 1]).wait();
    let limit = 256 << 10;
    assert_eq!(
        too_large,
        Err(Rejection::TooLarge {
            bytes: limit + 1,
            limit
        }
        .into())
    );
    node.stop().unwrap();
}

#[test]
fn a_machine_that_can_t_be_made_at_a_start_closes_its_group_and_is_named() {
    let data = directory();
    let (node, group) = alone(config(data.path()));
    propose(&group, b"go");
    let other = node.create_group(GroupId(4), "echo", &[NodeId(1)]).wait();
    propose(&other.unwrap(), b"go");
    node.stop().unwrap();
    let machines = Machines::new().register("echo", |group| match group {
        GROUP => Err("its disk is gone".into()),
        _ => Ok(Box::new(crate::Echo)),
    });
    let node = Node::start(config(data.path()), machines).unwrap();
    let closed = node.group(GROUP);
    let message = "its disk is gone".to_owned();
    let status = closed.status().wait().unwrap();
    assert_eq!(status.machine_error.as_ref(), Some(&message));
    let refused = closed.propose(b"more".to_vec()).wait();
    assert_eq!(refused, Err(Rejection::MachineFailed { message }.into()));
    assert_eq!(propose(&node.group(GroupId(4)), b"other").reply, b"other");
    node.stop().unwrap();
    let (node, group) = alone(config(data.path()));
    assert_eq!(propose(&group, b"again").reply, b"again");
    node.stop().unwrap();
}

#[test]
fn a_core_whose_directory_is_gone_is_missed_by_name() {
    let data = directory();
    let node = Node::start(config(data.path()).cores(2), machines()).unwrap();
    node.stop().unwrap();
    let lost = data.path().join("core-1");
    std::fs::remove_dir_all(&lost).unwrap();
    let message = refused(config(data.path()).cores(2));
    for words in ["core 1", "missing", "put it back"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(message.contains(lost.to_str().unwrap()), "{message}");
    assert!(!lost.exists(), "nothing was changed");
}
