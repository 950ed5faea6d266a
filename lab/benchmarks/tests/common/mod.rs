//! What the tests of programs share.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Prints that a test does not run because a program is missing. Where everything must run, that is a failure.
pub fn have(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        assert!(std::env::var_os("MULTICONN_LAB_REQUIRED").is_none(), "{program} is needed");
        println!("SKIPPED: needs {program}");
    }
    there
}

/// A server that has said where it listens. It ends with the test.
pub struct Listening {
    pub child: Child,
    pub addr: SocketAddr,
}

impl Listening {
    pub fn start(command: &mut Command) -> Listening {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let addr = lines.find_map(|line| Some(line.unwrap().strip_prefix("Listening on ")?.parse().unwrap()));
        std::thread::spawn(move || lines.for_each(drop)); // What it says later is read, so that it never waits.
        Listening { child, addr: addr.unwrap() }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of the product's, built as users build it.
pub fn product(name: &str) -> PathBuf {
    let build = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet", "--package", "multiconn", "--message-format", "json"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let messages = String::from_utf8(build.stdout).unwrap();
    let executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    executables.into_iter().find(|path| path.file_name().is_some_and(|file| file == name)).unwrap()
}
