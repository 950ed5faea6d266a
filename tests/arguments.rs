//! Every wrong command line: one line that names the fault, and the right exit code.
#![cfg(feature = "cli")]

mod common;

use std::process::Command;

use common::{CLIENT, Run, SERVER};

/// Runs a program and expects it to refuse with `code` and an error line that has all of `parts`.
#[track_caller]
fn refused(program: &str, args: &[&str], code: i32, parts: &[&str]) -> Run {
    let run = common::run(Command::new(program).args(args));
    assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
    assert_eq!(run.stdout, "", "{args:?}: {run:?}");
    let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {run:?}");
    for part in parts {
        assert!(errors[0].contains(part), "{args:?}: {part:?} not in {run:?}");
    }
    assert!(!run.stderr.contains("panicked"), "{run:?}");
    run
}

#[test]
fn wrong_ports_are_refused() {
    for port in ["65536", "-1", "+5", "abc", "", "99999999999999999999", " 1"] {
        refused(SERVER, &["127.0.0.1", port], 2, &["PORT", "'"]);
        refused(CLIENT, &["127.0.0.1", port, "1"], 2, &["PORT", "'"]);
    }
    refused(SERVER, &["127.0.0.1", "65536"], 2, &["'65536'", "0 to 65535"]);
    refused(CLIENT, &["127.0.0.1", "65536", "1"], 2, &["'65536'", "1 to 65535"]);
    refused(CLIENT, &["127.0.0.1", "0", "1"], 2, &["port 0 means a free port and is for servers"]);
}

#[test]
fn wrong_hosts_are_refused() {
    refused(CLIENT, &["", "7", "1"], 2, &["HOST", "name one to connect to"]);
    for (program, args) in
        [(SERVER, &["no.such.host.invalid", "0"][..]), (CLIENT, &["no.such.host.invalid", "7", "1"][..])]
    {
        let run = refused(program, args, 1, &["no.such.host.invalid", "is the", "name right?"]);
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    }
    // An address that this host does not have (TEST-NET-1, RFC 5737).
    refused(SERVER, &["192.0.2.1", "0"], 1, &["192.0.2.1", "no interface of this host has that address"]);
}

#[test]
fn host_and_port_as_one_argument_get_an_answer_that_says_what_to_write() {
    for (pair, instead) in [
        ("127.0.0.1:65432", "write 127.0.0.1 65432"),
        ("[::1]:65432", "write ::1 65432"),
        ("localhost:65432", "write localhost 65432"),
    ] {
        // One argument seems to be missing, or none, or all the others.
        for (program, args) in
            [(SERVER, &[pair][..]), (CLIENT, &[pair, "3"][..]), (CLIENT, &[pair, "65432", "3"]), (CLIENT, &[pair])]
        {
            refused(program, args, 2, &[pair, "<HOST>", "HOST and PORT are two arguments", instead]);
        }
    }
}

#[test]
fn wrong_numbers_of_connections_are_refused() {
    for count in ["0", "-1", "+1", "1.5", "x", "", "18446744073709551616", "4294967296"] {
        refused(CLIENT, &["127.0.0.1", "7", count], 2, &["NUM_CONNS"]);
    }
    let run = refused(CLIENT, &["127.0.0.1", "7", "1000000000"], 1, &["1000000000 connections need more descriptors"]);
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    assert!(run.stderr.contains("ulimit"), "{run:?}");
}

#[test]
fn a_k_behind_a_number_is_a_thousand_wherever_there_are_numbers() {
    refused(CLIENT, &["127.0.0.1", "7", "1000000k"], 1, &["1000000000 connections need more descriptors"]);
    let messages = ["127.0.0.1", "7", "1", "--size", "9223372036G", "--messages", "2k"];
    refused(CLIENT, &messages, 2, &["18446744072000000000000 bytes, which is more than 2^63"]);
    for option in ["--messages", "--pipeline", "--connect-window"] {
        refused(CLIENT, &["127.0.0.1", "7", "1", option, "5kB"], 2, &[option, "write it like 5000, 5k or 5M"]);
    }
    refused(SERVER, &["127.0.0.1", "0", "--backlog", "5 k"], 2, &["--backlog", "write it like 5000, 5k or 5M"]);
}

#[test]
fn wrong_options_of_the_server_are_refused() {
    let base = ["127.0.0.1", "0"];
    for (option, values) in [
        ("--backlog", &["0", "-1", "x", "4294967296"][..]),
        ("--max-connections", &["0", "-1", "x", ""][..]),
        ("--idle-timeout", &["0s", "5", "-1s", "never", ""][..]),
        ("--stall-timeout", &["0s", "5", "1parsec"][..]),
        ("--drain-timeout", &["5", "-1s", "off"][..]),
        ("--connection-buffer", &["0", "1KiB", "-1", "64XiB", "KiB", "99999999999999999999"][..]),
        ("--total-buffer", &["0", "+1", "many"][..]),
    ] {
        for value in values {
            let value = format!("{option}={value}");
            refused(SERVER, &[base[0], base[1], &value], 2, &[option]);
        }
    }
    refused(SERVER, &["127.0.0.1", "0", "-q", "-v"], 2, &["cannot be used with"]);
    refused(SERVER, &["127.0.0.1", "0", "--nonsense"], 2, &["--nonsense"]);
    refused(SERVER, &["127.0.0.1", "0", "extra"], 2, &["extra"]);
    refused(SERVER, &["127.0.0.1"], 2, &["required"]);
    refused(SERVER, &[], 2, &["required"]);
}

#[test]
fn wrong_options_of_the_client_are_refused() {
    for option in ["--connect-timeout", "--timeout"] {
        for value in ["0s", "5", "-1s", "off", ""] {
            refused(CLIENT, &["127.0.0.1", "7", "1", &format!("{option}={value}")], 2, &[option]);
        }
    }
    refused(CLIENT, &["127.0.0.1", "7", "1", "-m", ""], 2, &["an empty message sends nothing"]);
    refused(CLIENT, &["127.0.0.1", "7"], 2, &["required"]);
}

#[test]
fn a_port_below_1024_is_refused_without_the_right_to_it() {
    // Root may listen on any port, other users not. Where unprivileged ports begin at 0, every user may.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u32 = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    if rustix::process::geteuid().is_root() || first < 2 {
        return;
    }
    refused(SERVER, &["127.0.0.1", "1"], 1, &["port 1", "ports below 1024 need a special right"]);
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    for (program, name) in [(SERVER, "multiconn-server"), (CLIENT, "multiconn-client")] {
        let help = common::run(Command::new(program).arg("--help"));
        assert_eq!((help.code, &*help.stderr), (Some(0), ""));
        assert!(help.stdout.contains("Usage:") && help.stdout.contains("Examples:"), "{help:?}");
        let version = common::run(Command::new(program).arg("--version"));
        assert_eq!(version.code, Some(0));
        assert_eq!(version.stdout, format!("{name} {}\n", env!("CARGO_PKG_VERSION")), "a program names itself");
    }
}

/// The sentence is in each place where a reader may look for it.
#[test]
fn intact_is_defined_in_the_same_words_everywhere() {
    const INTACT: &str = "A connection is intact if everything that it had to send was sent, every byte of it came back \
                          and no other byte did, and the server then closed it in order (with a FIN, not a reset), \
                          before the client or after it.";
    let help = common::run(Command::new(CLIENT).arg("--help")).stdout;
    let folder = env!("CARGO_MANIFEST_DIR");
    let file = |path: &str| std::fs::read_to_string(format!("{folder}/{path}")).unwrap();
    let places = [help, file("README.md"), file("docs/report.md"), file("src/client/findings.rs").replace("///", "")];
    for place in places {
        let words: Vec<&str> = place.split_whitespace().collect();
        assert!(words.join(" ").contains(INTACT), "{place}");
    }
}
