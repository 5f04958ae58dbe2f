//! The rules of the house that a compiler does not hold: arrows, headers, lengths, banned calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may depend on whom among our own packages. Everything else is refused.
const ARROWS: &[(&str, &[&str])] = &[
    ("pontoon-types", &[]),
    ("pontoon-raft", &["pontoon-types"]),
    ("pontoon-storage", &["pontoon-types"]),
    ("pontoon-transport", &[]),
    (
        "pontoon",
        &["pontoon-raft", "pontoon-storage", "pontoon-transport"],
    ),
    ("pontoon-bench", &["pontoon"]),
    ("pontoon-sim", &["pontoon"]),
    ("pontoon-tools", &["pontoon", "pontoon-storage"]),
];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;

/// What `pontoon-raft` must never name: clocks, chance from outside, threads, files, sockets.
const BANNED_IN_RAFT: &[&str] = &[
    "std::time",
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::net",
    "std::fs",
    "HashMap",
    "HashSet",
    "thread_rng",
    "unsafe {",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("engine/ lies in the root")
        .to_path_buf()
}

/// Every Rust file of the repository with its path below the root, in a fixed order.
fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for top in ["engine", "transport", "storage", "bench", "tools"] {
        collect(&root(), &root().join(top), &mut found);
    }
    assert!(
        found.len() > 5,
        "the walk over the sources found only {}",
        found.len()
    );
    found
}

fn collect(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a readable directory entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .display()
                .to_string();
            found.insert(
                name,
                fs::read_to_string(&path).expect("a readable source file"),
            );
        }
    }
}

fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn packages_depend_only_along_the_arrows() {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata of the workspace");
    let mut broken = Vec::new();
    for package in &metadata.packages {
        let allowed = ARROWS
            .iter()
            .find(|(name, _)| *name == package.name.as_str());
        let Some((_, allowed)) = allowed else {
            broken.push(format!("{} has no line in ARROWS", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            // A package may name itself, to test with its own features.
            let other = name != package.name.as_str();
            if other && name.starts_with("pontoon") && !allowed.contains(&name) {
                broken.push(format!("{} -> {name}", package.name));
            }
        }
    }
    assert_none(&broken, "these arrows are not in the design");
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            broken.push(format!("{name}: does not begin with a //! line"));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{name}: {lines} lines, more than {FILE_LINES_MAX}"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS_MAX {
                broken.push(format!(
                    "{name}:{}: over {LINE_COLUMNS_MAX} columns",
                    number + 1
                ));
            }
        }
    }
    assert_none(&broken, "one idea a file");
}

/// Lengths of the functions of a formatted file: from its `fn` line to the closing brace that
/// stands at the same depth.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let mut long = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let is_function = [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "const fn ",
        ]
        .iter()
        .any(|prefix| body.starts_with(prefix));
        if !is_function {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let length = lines[start..]
            .iter()
            .position(|line| *line == closing)
            .unwrap_or(0)
            + 1;
        if length > FUNCTION_LINES_MAX {
            long.push(format!("{name}:{}: {length} lines", start + 1));
        }
    }
    long
}

#[test]
fn a_function_fits_a_screen() {
    let broken: Vec<String> = sources()
        .iter()
        .flat_map(|(name, text)| long_functions(name, text))
        .collect();
    assert_none(&broken, "functions longer than a screen");
}

#[test]
fn the_rules_name_no_clock_thread_file_or_socket() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        if !name.starts_with("engine/raft/src") {
            continue;
        }
        for banned in BANNED_IN_RAFT {
            if text.contains(banned) {
                broken.push(format!("{name}: {banned}"));
            }
        }
    }
    let library = fs::read_to_string(root().join("engine/raft/src/lib.rs")).expect("its lib.rs");
    for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        if !library.contains(attribute) {
            broken.push(format!("engine/raft/src/lib.rs lacks {attribute}"));
        }
    }
    assert_none(&broken, "pontoon-raft knows no bytes, clocks or threads");
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("dbg", "!("),
        concat!("todo", "!("),
    ];
    let mut broken = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                broken.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&broken, "unfinished work in the sources");
}
