//! The servers side by side: what each is, how it is started, and why one is absent.
//!
//! Owns the list of peers and the making of those that are not Rust. A peer that cannot be had here stays in the list
//! with the reason, so that no report leaves it out in silence.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// The name of the server that all ratios are to.
pub const FLOOR: &str = "floor";
/// The name of the server that this is all about.
pub const OURS: &str = "multiconn";
/// The same two, polling without sleep.
pub const FLOOR_SPINNING: &str = "floor-spin";
pub const OURS_SPINNING: &str = "multiconn-spin";

/// One server.
#[derive(Debug)]
pub struct Peer {
    pub name: &'static str,
    pub what: &'static str,
    /// The command line, with `{port}` in place of the port; or why the program cannot be had here.
    pub command: Result<Vec<OsString>, String>,
    /// Polls without sleeping: only interesting where sleeping is what takes the time.
    pub spins: bool,
    /// Is measured at scale and against spinning as well.
    pub near_the_floor: bool,
    /// What only a proxy has.
    pub proxy: Option<Proxy>,
}

/// Where things are.
#[derive(Debug)]
pub struct Places {
    /// The workspace.
    pub root: PathBuf,
    /// Its release programs.
    pub programs: PathBuf,
    /// What the bench itself makes, and the servers' error output.
    pub scratch: PathBuf,
}

impl Places {
    /// Finds them by cargo's own variables.
    pub fn find() -> anyhow::Result<Places> {
        let member = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = member.ancestors().nth(2).context("the bench is a member of a workspace")?.to_owned();
        let own = std::env::current_exe()?;
        let programs = own.parent().context("a program is in a directory")?.to_owned();
        let scratch = programs.join("bench");
        fs::create_dir_all(&scratch)?;
        Ok(Places { root, programs, scratch })
    }

    pub fn source(&self, name: &str) -> PathBuf {
        self.root.join("lab/benchmarks/peers").join(name)
    }
}

/// Builds the product's programs and examples as a user would, and the peers in Rust.
pub fn build(places: &Places) -> anyhow::Result<()> {
    let (ours, peers) =
        (["build", "--release", "--bins", "--examples"], ["build", "--release", "-p", "benchmarks", "--bins"]);
    for arguments in [&ours[..], &peers] {
        let built = Command::new("cargo").args(arguments).current_dir(&places.root).status().context("cargo")?;
        ensure!(built.success(), "cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// What only a proxy has.
#[derive(Debug)]
pub struct Proxy {
    /// The echo server behind it, whose port is `{backend}` in the proxy's command line.
    pub backend: Box<Peer>,
    /// A file in which `{port}` and `{backend}` stand as well. The path of what becomes of it is `{config}`.
    pub config: Option<PathBuf>,
    /// Forks a process for each connection: is only measured with few that stay.
    pub forks: bool,
}

/// All echo servers, the floor first.
pub fn all(places: &Places) -> Vec<Peer> {
    let peer = |name, what, command| Peer { name, what, command, spins: false, near_the_floor: false, proxy: None };
    let spinning = |name, what, command| Peer { spins: true, ..peer(name, what, command) };
    let near = |name, what, command| Peer { near_the_floor: true, ..peer(name, what, command) };
    let python = python();
    let script = |name: &str, rest: &[&str], python: &Result<PathBuf, String>| {
        let python = python.clone()?;
        Ok(line(python, [places.source(name).into(), "{port}".into()].into_iter().chain(rest.iter().map(Into::into))))
    };
    vec![
        near(FLOOR, "raw epoll, edge-triggered, one shared buffer", Ok(program(places, "peer-floor", &["{port}"]))),
        near(
            OURS,
            "multiconn-server -q, all else as it comes",
            Ok(program(places, "multiconn-server", &["-q", "127.0.0.1", "{port}"])),
        ),
        near("tokio", "tokio, current_thread, a task a connection", Ok(program(places, "peer-tokio", &["{port}"]))),
        near("mio", "mio as its own example uses it", Ok(program(places, "peer-mio", &["{port}"]))),
        peer("monoio", "monoio on io_uring, a task a connection", Ok(program(places, "peer-monoio", &["{port}"]))),
        peer("libuv", "libuv in C, try_write first", libuv(places)),
        peer("node", "node, socket.pipe(socket)", node(places)),
        peer(
            "uvloop",
            "Python, an asyncio protocol on uvloop",
            script("asyncio_server.py", &["uvloop"], &uvloop(places)),
        ),
        peer("asyncio", "Python, an asyncio protocol", script("asyncio_server.py", &[], &python)),
        peer("selectors", "Python, the tutorial's server made to work", script("selectors_server.py", &[], &python)),
        spinning(
            FLOOR_SPINNING,
            "the floor, polling without sleep",
            Ok(program(places, "peer-floor", &["{port}", "spin"])),
        ),
        spinning(OURS_SPINNING, "multiconn-server -q --busy-poll 50us", busy_polling(places)),
    ]
}

pub fn line(program: impl Into<OsString>, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    std::iter::once(program.into()).chain(arguments).collect()
}

pub fn program(places: &Places, name: &str, arguments: &[&str]) -> Vec<OsString> {
    line(places.programs.join(name), arguments.iter().map(OsString::from))
}

fn busy_polling(places: &Places) -> Result<Vec<OsString>, String> {
    let help = said_by(Command::new(places.programs.join("multiconn-server")).arg("--help"))?;
    if help.contains("--busy-poll") {
        Ok(program(places, "multiconn-server", &["-q", "127.0.0.1", "{port}", "--busy-poll", "50us"]))
    } else {
        Err("this multiconn-server has no --busy-poll".to_owned())
    }
}

/// The interpreter itself: a wrapper that starts it would only make the start slower.
fn python() -> Result<PathBuf, String> {
    said_by(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).map(|path| path.trim().into())
}

/// A Python with uvloop in it, made in the target directory.
fn uvloop(places: &Places) -> Result<PathBuf, String> {
    let home = places.scratch.join("venv");
    let python = home.join("bin/python3");
    if said_by(Command::new(&python).args(["-c", "import uvloop"])).is_err() {
        said_by(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        said_by(Command::new(&python).args(["-m", "pip", "install", "--quiet", "uvloop"]))?;
    }
    Ok(python)
}

fn libuv(places: &Places) -> Result<Vec<OsString>, String> {
    let made = compiled(places, "libuv_server.c", &["-luv"])
        .map_err(|error| format!("not compiled (Debian: libuv1-dev): {error}"))?;
    Ok(line(made, ["{port}".into()]))
}

/// The program that a source in C becomes.
pub fn compiled(places: &Places, source: &str, libraries: &[&str]) -> Result<PathBuf, String> {
    let made = places.scratch.join(source).with_extension("");
    said_by(Command::new("cc").args(["-O2", "-o"]).arg(&made).arg(places.source(source)).args(libraries))?;
    Ok(made)
}

fn node(places: &Places) -> Result<Vec<OsString>, String> {
    said_by(Command::new("node").arg("--version"))?;
    Ok(line("node", [places.source("node_server.js").into(), "{port}".into()]))
}

/// What a command says: its standard output, or its error output if that is empty, as nginx's is. If it fails, the first
/// line of complaint.
pub fn said_by(command: &mut Command) -> Result<String, String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        return Ok(String::from_utf8_lossy(&said).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", complaint.lines().find(|line| !line.trim().is_empty()).unwrap_or("failed")))
}

/// The name of something that takes part, and its version or why it is not known.
pub type Version = (&'static str, Result<String, String>);

/// The versions of what the echo servers are made of.
pub fn versions(places: &Places) -> Vec<Version> {
    let uvloop = places.scratch.join("venv/bin/python3");
    let mut versions = common_versions(places, &["mio", "tokio", "monoio", "io-uring", "libc"]);
    versions.extend([
        ("libuv", said_by(Command::new("pkg-config").args(["--modversion", "libuv"]))),
        ("node", said_by(Command::new("node").arg("--version"))),
        ("Python", said_by(Command::new("python3").arg("--version"))),
        ("uvloop", said_by(Command::new(uvloop).args(["-c", "import uvloop; print(uvloop.__version__)"]))),
    ]);
    versions
}

/// The versions of the product, of the tools and of some crates.
pub fn common_versions(places: &Places, crates: &[&'static str]) -> Vec<Version> {
    let mut versions = vec![
        (OURS, said_by(Command::new(places.programs.join("multiconn-server")).arg("--version"))),
        ("rustc", said_by(Command::new("rustc").arg("--version"))),
        ("strace", said_by(Command::new("strace").arg("--version"))),
    ];
    versions.extend(crates.iter().map(|name| (*name, locked(places, name))));
    versions
}

/// A crate's version in the lock file.
fn locked(places: &Places, name: &str) -> Result<String, String> {
    let lock = fs::read_to_string(places.root.join("Cargo.lock")).map_err(|error| error.to_string())?;
    let wanted = format!("name = \"{name}\"");
    let mut lines = lock.lines().skip_while(|line| *line != wanted).skip(1);
    lines
        .next()
        .and_then(|line| line.strip_prefix("version = "))
        .map(|version| version.trim_matches('"').to_owned())
        .ok_or_else(|| format!("{name} is not in Cargo.lock"))
}
