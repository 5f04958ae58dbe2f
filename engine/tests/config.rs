//! The configuration: what is accepted, and how everything else is refused by name.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use pontoon::{Config, ConfigError};

const EXAMPLE: &str = include_str!("../pontoon.toml");

fn refused(text: &str) -> String {
    Config::from_toml_str(text).unwrap_err().to_string()
}

const MINIMUM: &str = r#"
node = 1
cluster = "1"
data = "d"
listen = "127.0.0.1:0"
"#;

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = Config::from_toml_str(EXAMPLE).unwrap();
    // With the comment signs of keys and tables gone, nothing changes.
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        })
        .collect();
    let uncommented = Config::from_toml_str(&uncommented.join("\n")).unwrap();
    assert_eq!(uncommented, example);
    // A key that the example lacks would be missing from this list of the structure's fields.
    let fields = format!("{example:?}");
    let names = fields
        .split([' ', '{', ',', '('])
        .filter_map(|word| word.strip_suffix(':'));
    for name in names.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
        assert!(EXAMPLE.contains(name), "{name} is not in pontoon.toml");
    }
}

#[test]
fn an_unknown_key_is_refused_by_name_wherever_it_stands() {
    for place in ["", "[raft]\n", "[log]\n", "[limits]\n"] {
        let message = refused(&format!("{MINIMUM}{place}colour = 1"));
        assert!(message.contains("colour"), "{message}");
    }
}

#[test]
fn a_missing_key_is_named() {
    for key in ["node", "cluster", "data", "listen"] {
        let text: String = MINIMUM
            .lines()
            .filter(|line| !line.starts_with(key))
            .map(|line| format!("{line}\n"))
            .collect();
        let message = refused(&text);
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn wrong_values_are_refused_with_their_key() {
    let wrong = [
        ("cluster", MINIMUM.replace("\"1\"", "\"xyz\"")),
        ("node", MINIMUM.replace("node = 1", "node = 0")),
        ("peers", format!("{MINIMUM}[peers]\n1 = \"10.0.0.1:1\"")),
        ("peers", format!("{MINIMUM}[peers]\n0 = \"10.0.0.1:1\"")),
        ("peers", format!("{MINIMUM}[peers]\nx = \"10.0.0.1:1\"")),
        ("cores", format!("{MINIMUM}cores = 0")),
        ("pin", format!("{MINIMUM}pin = [1, 2]")),
        ("host", format!("{MINIMUM}host = \"magic\"")),
        (
            "raft.election_timeout",
            format!("{MINIMUM}[raft]\nelection_timeout = \"150ms\""),
        ),
        (
            "raft.heartbeat_interval",
            format!("{MINIMUM}[raft]\nheartbeat_interval = \"1us\""),
        ),
        (
            "log.segment_bytes",
            format!("{MINIMUM}[log]\nsegment_bytes = \"1 MiB\""),
        ),
        (
            "log.segments_max",
            format!("{MINIMUM}[log]\nsegments_max = 2"),
        ),
        (
            "log.staging_bytes",
            format!("{MINIMUM}[log]\nstaging_bytes = \"1 MiB\""),
        ),
        (
            "limits.command_bytes_max",
            format!("{MINIMUM}[limits]\ncommand_bytes_max = \"1 MiB\""),
        ),
        (
            "limits.requests_waiting_max",
            format!("{MINIMUM}[limits]\nrequests_waiting_max = 0"),
        ),
        (
            "limits.proposals_pending_bytes_max",
            format!("{MINIMUM}[limits]\nproposals_pending_bytes_max = \"1 KiB\""),
        ),
        (
            "limits.replies_pending_bytes_max",
            format!("{MINIMUM}[limits]\nreplies_pending_bytes_max = \"1 KiB\""),
        ),
        (
            "limits.peer_queue_bytes_max",
            format!("{MINIMUM}[limits]\npeer_queue_bytes_max = \"1 KiB\""),
        ),
        (
            "limits.in_flight_bytes_max",
            format!("{MINIMUM}[limits]\nin_flight_bytes_max = \"2 GiB\""),
        ),
        (
            "limits.in_flight_messages_max",
            format!("{MINIMUM}[limits]\nin_flight_messages_max = 0"),
        ),
    ];
    for (key, text) in wrong {
        let message = refused(&text);
        assert!(message.contains(key), "{key}: {message}");
    }
}

/// A leader's largest command crosses an idle connection in six round trips.
#[test]
fn a_configuration_says_which_round_trips_it_is_good_for() {
    let good_for = |rest: &str| {
        let config = Config::from_toml_str(&format!("{MINIMUM}{rest}")).unwrap();
        config.round_trip_max().as_millis()
    };
    assert_eq!(good_for(""), 150);
    assert_eq!(good_for("[raft]\nelection_timeout = \"4s\""), 650);
    assert_eq!(good_for("[limits]\ncommand_bytes_max = \"4 KiB\""), 450);
}

/// What a core queues and caches has a limit each, and this is their sum: of proposals and replies,
/// and for each peer of what waits for it, two receives and what was read ahead.
#[test]
fn the_memory_that_a_node_takes_is_the_sum_of_its_limits() {
    let mib = |rest: &str| {
        let config = Config::from_toml_str(&format!("{MINIMUM}{rest}")).unwrap();
        config.memory_bytes_max() as f64 / f64::from(1 << 20)
    };
    let alone = mib("");
    let more = mib("[limits]\nreplies_pending_bytes_max = \"100 MiB\"") - alone;
    assert_eq!(more, 36.0);
    let more = mib("[limits]\nproposals_pending_bytes_max = \"100 MiB\"") - alone;
    assert_eq!(more, 36.0);
    let more = mib("[peers]\n2 = \"10.0.0.2:1\"") - alone;
    assert_eq!(more, 8.0 + 2.0 * 1.25 + 3.0);
    let huge = mib("[limits]\nproposals_pending_bytes_max = \"18446744073709551615 B\"");
    assert!(huge > alone, "it does not overflow");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::from_toml("no/such/file.toml").unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(error.to_string().contains("no/such/file.toml"));
}

/// Values at their extremes are refused by their own key: their sums and products do not overflow.
#[test]
fn extreme_values_are_refused_by_their_own_key() {
    for (setting, key) in [
        (
            "[raft]\nheartbeat_interval = \"10000000000000000000s\"",
            "raft.election_timeout",
        ),
        ("[raft]\nelection_timeout = \"2h\"", "raft.election_timeout"),
        (
            "[limits]\ncommand_bytes_max = \"18446744073709551615 B\"",
            "limits.command_bytes_max",
        ),
        ("spin = \"2s\"", "spin"),
    ] {
        let message = refused(&format!("{MINIMUM}{setting}"));
        assert!(message.contains(&format!("`{key}`")), "{message}");
    }
}
