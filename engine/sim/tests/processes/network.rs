//! Three nodes' network namespaces and a switch between them, in a fourth.
//!
//! Nothing of it is joined to the machine's own network, so addresses may be the same in every
//! run. The names hold the process that made them: whoever comes later removes what the dead left.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "pontoon-test-";

/// In a namespace of its own nobody else can have it.
const PORT: u16 = 7400;

/// Networks made by this process so far.
static MADE: AtomicU32 = AtomicU32::new(0);

/// The namespaces of one cluster; removed when this is dropped.
pub(crate) struct Network {
    name: String,
    nodes: usize,
}

impl Network {
    /// Makes them, or says why they are not allowed here.
    pub(crate) fn make(nodes: usize) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        remove_left_behind();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            name: format!("{PREFIX}{}-{number}", std::process::id()),
            nodes,
        };
        // What fails only here is not allowed; whatever fails later is the test's own failure.
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["netns", "exec", &hub, "true"])?;
        ip(&["-n", &hub, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "switch", "up"])?;
        for node in 0..nodes {
            network.join(node)?;
        }
        Ok(network)
    }

    fn join(&self, node: usize) -> Result<(), String> {
        let (hub, port, namespace) = (self.hub(), port(node), self.namespace(node));
        let address = format!("{}/24", self.address(node).ip());
        ip(&["netns", "add", &namespace])?;
        let ends = ["type", "veth", "peer", "name", "wire", "netns"];
        let add = ["-n", hub.as_str(), "link", "add", port.as_str()];
        ip(&[&add[..], &ends[..], &[namespace.as_str()][..]].concat())?;
        ip(&["-n", &hub, "link", "set", &port, "master", "switch"])?;
        ip(&["-n", &hub, "link", "set", &port, "up"])?;
        ip(&["-n", &namespace, "addr", "add", &address, "dev", "wire"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "wire", "up"])
    }

    /// Where a node listens, in its own namespace.
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        let last = u8::try_from(node + 1).unwrap();
        SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), PORT))
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        (0..self.nodes).map(|node| self.address(node)).collect()
    }

    /// A command that will run in a node's namespace, as the very process that is spawned.
    pub(crate) fn command(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node)]);
        command.arg(program);
        command
    }

    /// Cuts a node off from all others, or joins it again: its end of the cable goes dead.
    pub(crate) fn set_link(&self, node: usize, up: bool) {
        let state = if up { "up" } else { "down" };
        let done = ip(&["-n", &self.hub(), "link", "set", &port(node), state]);
        done.unwrap();
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}-{}", self.name, node + 1)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let namespaces = (0..self.nodes).map(|node| self.namespace(node));
        for namespace in namespaces.chain([self.hub()]) {
            // It may not have come to be.
            let _ = ip(&["netns", "del", &namespace]);
        }
    }
}

/// The switch's end of a node's cable.
fn port(node: usize) -> String {
    format!("node-{}", node + 1)
}

/// Runs `ip`; its complaint is the error.
fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`ip` does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), complaint.trim()))
}

/// Removes namespaces of test processes that have ended without doing so.
fn remove_left_behind() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another run may remove it at the same time.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}
