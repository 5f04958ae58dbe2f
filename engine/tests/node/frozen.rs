//! A file system that stands still: freezing one takes root, a loop device and mkfs.ext4. Where one
//! of them is missing there is nothing to show, and the test says so.

use std::path::Path;
use std::process::Command;

use pontoon::{Node, ProposeError, Unknown};

use crate::{alone, config, directory, propose};

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// A mounted file system of its own, thawed and unmounted at the end.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path) -> Option<Self> {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(512 << 20).unwrap();
        let image = image.to_str().unwrap();
        let made = succeeds("mkfs.ext4", &["-q", "-F", image])
            && succeeds("mount", &["-o", "loop", image, at.to_str().unwrap()]);
        made.then_some(Self(at))
    }

    fn freeze(&self) -> bool {
        succeeds("fsfreeze", &["--freeze", self.0.to_str().unwrap()])
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let at = self.0.to_str().unwrap();
        let _ = succeeds("fsfreeze", &["--unfreeze", at]);
        // What was leaked keeps its files open: it goes with the process.
        let _ = succeeds("umount", &["--lazy", at]);
    }
}

#[test]
fn a_stop_on_a_frozen_file_system_ends_and_names_what_hangs() {
    let data = directory();
    let at = data.path().join("mounted");
    std::fs::create_dir(&at).unwrap();
    let Some(mounted) = Mounted::new(&data.path().join("image"), &at) else {
        return eprintln!("no file system can be mounted here: nothing is shown");
    };
    let (node, group) = alone(config(&at.join("data")));
    propose(&group, b"it goes");
    if !mounted.freeze() {
        return eprintln!("the file system can't be frozen: nothing is shown");
    }
    let taken = |node: &Node| node.statistics().wait().remove(0).unwrap().proposals;
    let before = taken(&node);
    let pending = group.propose(b"it hangs".to_vec());
    while taken(&node) == before {
        std::thread::yield_now();
    }
    let error = node.stop().expect_err("a write is under way");
    drop(mounted);
    let message = error.to_string();
    assert!(message.contains("core 0"), "{message}");
    let outcome = pending.wait();
    let told = matches!(
        outcome,
        Err(ProposeError::Unknown(Unknown::Stopped) | ProposeError::Rejected(_))
    );
    assert!(told, "{outcome:?}");
}
