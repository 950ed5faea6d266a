//! Log readers and report readers that are gone, full or asleep.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use common::proc::listening_addr;
use common::{CLIENT, Program, SERVER, Server, client, ping};

/// A server started by a shell command: only a shell can close a standard stream.
fn server_by_shell(redirection: &str, stderr: Stdio) -> (Child, SocketAddr) {
    let child = Command::new("sh")
        .args(["-c", &format!("exec \"$0\" \"$@\" {redirection}"), SERVER, "127.0.0.1", "0", "-v"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let addr = listening_addr(&child);
    (child, addr)
}

fn interrupt(child: &mut Child) -> Option<i32> {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::INT).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn a_closed_or_full_standard_error_does_not_stop_the_server() {
    for redirection in ["2>&-", "2>/dev/full"] {
        let (mut child, addr) = server_by_shell(redirection, Stdio::null());
        ping(&mut common::connect(addr), b"hello");
        let run = client(addr, 100, &["-q"]);
        assert_eq!(run.code, Some(0), "{redirection}: {run:?}");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::USR1).unwrap();
        ping(&mut common::connect(addr), b"after the table");
        assert_eq!(interrupt(&mut child), Some(0), "{redirection}");
    }
}

#[test]
fn a_log_that_nobody_reads_stalls_nothing_and_is_counted() {
    let (mut child, addr) = server_by_shell("", Stdio::piped());
    // Some 10,000 lines with -v, of which a pipe holds a tenth.
    let run = client(addr, 2500, &["-q"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    // From here on the log is read again.
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    log.read_line(&mut first).unwrap();
    assert!(first.starts_with("Listening on "), "{first}");
    let rest = std::thread::spawn(move || {
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        rest
    });
    ping(&mut common::connect(addr), b"hello");
    assert_eq!(interrupt(&mut child), Some(0));
    let rest = rest.join().unwrap();
    assert!(rest.contains(" log lines were dropped: nobody read them\n"), "{} bytes", rest.len());
    assert!(rest.ends_with("Caught interrupt, exiting\n") || rest.contains("Caught interrupt"), "the end is told");
}

#[test]
fn a_terminal_that_nobody_reads_stalls_nothing() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let slave = std::fs::File::options().write(true).open(name).unwrap();
    let (mut child, addr) = server_by_shell("", slave.into());
    let run = client(addr, 1000, &["-q"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(interrupt(&mut child), Some(0));
}

#[test]
fn a_log_reader_that_went_away_does_not_stop_the_server() {
    let (mut child, addr) = server_by_shell("", Stdio::piped());
    drop(child.stderr.take());
    let run = client(addr, 100, &["-q"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(interrupt(&mut child), Some(0));
}

#[test]
fn the_client_survives_any_standard_error() {
    let server = Server::start(&[]);
    for redirection in ["2>&-", "2>/dev/full"] {
        let port = server.addr.port().to_string();
        let run = common::run(Command::new("sh").args([
            "-c",
            &format!("exec \"$0\" \"$@\" {redirection}"),
            CLIENT,
            "127.0.0.1",
            &port,
            "3",
        ]));
        assert_eq!(run.code, Some(0), "{redirection}: {run:?}");
        assert!(run.stdout.contains("3 intact"), "{run:?}");
    }
}

#[test]
fn a_report_on_a_full_disk_is_an_error() {
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    let script = "exec \"$0\" \"$@\" >/dev/full";
    let run = common::run(Command::new("sh").args(["-c", script, CLIENT, "127.0.0.1", &port, "3", "-q"]));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.stderr, "error: cannot write to standard output: No space left on device (os error 28)\n");
    for program in [SERVER, CLIENT] {
        let run = common::run(Command::new("sh").args(["-c", script, program, "--help"]));
        assert_eq!(run.code, Some(1), "{run:?}");
    }
}

#[test]
fn a_report_whose_reader_is_gone_is_no_error() {
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    let mut child = Command::new(CLIENT)
        .args(["127.0.0.1", &port, "3", "-q"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

#[test]
fn rust_log_takes_precedence_and_a_bad_one_is_named() {
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    let run = |filter: &str, args: &[&str]| {
        let output =
            Command::new(CLIENT).args(["127.0.0.1", &port, "1"]).args(args).env("RUST_LOG", filter).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(run("off", &[]), "");
    assert!(run("info", &["-q"]).contains("Starting connection 1"));
    let text = run("multiconn=nonsense", &[]);
    assert!(text.starts_with("warning: RUST_LOG is ignored: ") && text.contains("Starting connection 1"), "{text}");
}

#[test]
fn warnings_that_are_left_out_are_counted_wherever_warnings_are_logged() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = closed.port().to_string();
    for filter in ["warn", "info"] {
        let mut command = Command::new(CLIENT);
        command.args(["127.0.0.1", &port, "1000", "-m", "x"]).env("RUST_LOG", filter).stdout(Stdio::null());
        let mut client = Program::start(command);
        let lines = client.all_lines(1);
        assert_eq!(client.accounted_for("warning: connection"), 1000, "{filter}: {lines:#?}");
        let counts = client.count("more lines \"warning: connection …\" left out");
        let printed = lines.iter().filter(|line| line.starts_with("warning: connection ")).count();
        assert!(
            counts >= 1 && (200..=200 * (counts + 1)).contains(&printed),
            "{filter}: {printed} and {counts} of {lines:#?}"
        );
    }
}
