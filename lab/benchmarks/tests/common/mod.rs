//! What the tests of programs share.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Prints that a test does not run because a program is missing. Where everything must run, that is a failure.
pub fn have(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        assert!(std::env::var_os("MULTICONN_LAB_REQUIRED").is_none(), "{program} is needed");
        println!("SKIPPED: needs {program}");
    }
    there
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
