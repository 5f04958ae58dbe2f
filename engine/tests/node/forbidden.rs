//! What fails because the process may not do it, by seccomp filters as containers have them and by
//! limits of resources: each in a process of its own, because these stay.

#[cfg(feature = "glommio")]
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Instant;

#[cfg(feature = "glommio")]
use pontoon::SpawnError;
use pontoon::{
    Config, CreateError, GroupId, HostKind, Node, NodeId, ProposeError, Rejection, RequestError,
    StopError, Unknown,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{GROUP, PATIENCE, alone, config, directory, machines, propose};

const CHILD: &str = "PONTOON_TEST_FORBIDDEN";

fn hosts() -> impl Iterator<Item = HostKind> {
    let glommio = cfg!(feature = "glommio").then_some(HostKind::Glommio);
    std::iter::once(HostKind::Thread).chain(glommio)
}

/// Runs the test of that name once more, in a process of its own, where it does `what`.
fn in_a_process(name: &str, what: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return what();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("forbidden::{name}")])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it hangs");
        }
        std::thread::yield_now();
    };
    assert!(status.success(), "{status}");
}

#[test]
fn without_io_uring_the_start_says_what_to_do() {
    in_a_process("without_io_uring_the_start_says_what_to_do", || {
        forbid(libc::SYS_io_uring_setup);
        let data = directory();
        let refused = Node::start(config(data.path()), machines()).unwrap_err();
        let message = refused.to_string();
        assert!(
            message.contains("io_uring is not allowed here"),
            "{message}"
        );
    });
}

#[test]
fn a_ring_that_can_t_be_entered_at_all_is_told_and_nobody_waits() {
    in_a_process(
        "a_ring_that_can_t_be_entered_at_all_is_told_and_nobody_waits",
        || {
            forbid(libc::SYS_io_uring_enter);
            let data = directory();
            let node = Node::start(config(data.path()).cores(2), machines()).unwrap();
            for group in 1..=8 {
                let mut created = node.create_group(GroupId(group), "echo", &[NodeId(1)]);
                let created = created.wait_timeout(PATIENCE).expect("an answer");
                assert_eq!(
                    created.err(),
                    Some(CreateError::Request(RequestError::Failed))
                );
            }
            ends_as_failed(node);
        },
    );
}

#[test]
fn a_ring_that_fails_under_load_answers_everything_and_is_told() {
    in_a_process(
        "a_ring_that_fails_under_load_answers_everything_and_is_told",
        || {
            let lives: Vec<_> = hosts().map(|host| (directory(), host)).collect();
            let nodes: Vec<_> = lives
                .iter()
                .map(|(data, host)| alone(Config::host(config(data.path()), *host)))
                .collect();
            for (_, group) in &nodes {
                propose(group, b"go");
            }
            let load = |group: &pontoon::Group| -> Vec<_> {
                (0..64).map(|_| group.propose(vec![1; 64])).collect()
            };
            let under_way: Vec<_> = nodes.iter().flat_map(|(_, group)| load(group)).collect();
            forbid(libc::SYS_io_uring_enter);
            for mut proposal in under_way {
                proposal.wait_timeout(PATIENCE).expect("an outcome").ok();
            }
            for (node, group) in nodes {
                // Whichever of them the core takes last, it fails at once.
                while group.propose(vec![1; 64]).wait()
                    != Err(ProposeError::Rejected(Rejection::Failed))
                {}
                let status = group.status().wait();
                assert_eq!(status.err(), Some(RequestError::Failed));
                let again = node.create_group(GROUP, "echo", &[NodeId(1)]).wait();
                let failed = CreateError::Request(RequestError::Failed);
                assert_eq!(again.err(), Some(failed));
                ends_as_failed(node);
            }
        },
    );
}

#[test]
fn a_log_that_fails_is_told_to_whoever_asks_and_by_stop() {
    in_a_process(
        "a_log_that_fails_is_told_to_whoever_asks_and_by_stop",
        || {
            let data = directory();
            let (node, group) = alone(config(data.path()));
            propose(&group, b"go");
            // SAFETY: nothing handles this signal; writes say EFBIG instead.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            limit_to(Resource::Fsize, 0);
            let outcome = group.propose(b"more".to_vec()).wait();
            let unknown = Err(ProposeError::Unknown(Unknown::Failed));
            assert_eq!(outcome, unknown);
            let failure = node.failed().wait_timeout(PATIENCE);
            let failure = failure.expect("the owner is told").unwrap();
            assert_eq!(group.status().wait(), Err(RequestError::Failed));
            let statistics = node.statistics().wait();
            assert!(matches!(statistics[..], [Err(RequestError::Failed)]));
            match node.stop() {
                Err(StopError::Failed(told)) => assert_eq!(told, failure),
                stopped => panic!("{stopped:?}"),
            }
        },
    );
}

/// glommio panics there, and that ended the process; and the executor was never made again.
#[cfg(feature = "glommio")]
#[test]
fn an_executor_that_lacks_descriptors_is_told_and_made_for_a_later_task() {
    in_a_process(
        "an_executor_that_lacks_descriptors_is_told_and_made_for_a_later_task",
        || {
            let data = directory();
            let (node, group) = alone(config(data.path()).host(HostKind::Glommio));
            limit_to(Resource::Nofile, 256);
            let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            let mut refused = node.spawn_on(0, || async {});
            let refused = refused.wait_timeout(PATIENCE).expect("an answer");
            assert_eq!(refused, Err(SpawnError::Executor { core: 0 }));
            propose(&group, b"the core goes on");
            drop(taken);
            let mut done = node.spawn_on(0, || async { 7 });
            assert_eq!(done.wait_timeout(PATIENCE), Some(Ok(7)));
            node.stop().unwrap();
        },
    );
}

fn limit_to(resource: Resource, current: u64) {
    let maximum = getrlimit(resource).maximum;
    let current = Some(current);
    setrlimit(resource, Rlimit { current, maximum }).unwrap();
}

fn ends_as_failed(node: Node) {
    let failure = node.failed().wait_timeout(PATIENCE);
    let failure = failure.expect("the owner is told").unwrap().to_string();
    assert!(failure.contains("entering the ring"), "{failure}");
    let stopped = node.stop();
    assert!(
        matches!(stopped, Err(StopError::Driver { .. })),
        "{stopped:?}"
    );
}

/// From now on this system call gives EPERM, on every thread.
#[allow(unsafe_code)]
fn forbid(call: libc::c_long) {
    let number = u32::try_from(call).unwrap();
    let statement = |code, jump_true, k| libc::sock_filter {
        code,
        jt: jump_true,
        jf: 0,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let compare = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        statement(load as u16, 0, 0),
        statement(compare as u16, 1, number),
        statement(give as u16, 0, libc::SECCOMP_RET_ALLOW),
        statement(give as u16, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to a filter of the length it says, and both outlive the calls.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                1,
                &raw const program,
            ) == 0
    };
    // Flag 1 (SECCOMP_FILTER_FLAG_TSYNC): the test's other threads as well.
    assert!(installed, "{}", std::io::Error::last_os_error());
}
