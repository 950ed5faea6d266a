//! One server: started on its core, a proxy with the echo server behind it, watched, ended.
//!
//! Owns the processes and what /proc says about them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::peers::{Peer, Places};

/// The core of the servers. Everything else is on the other one.
pub const CORE: usize = 0;
/// The core of the load.
pub const LOAD_CORE: usize = 1;

/// How long a server may take until it accepts.
const START: Duration = Duration::from_secs(10);

/// Below the range from which the kernel takes ports for connections. Each server has a port of its own, so that
/// nothing of one measurement is in the way of the next.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// A server that accepts connections. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    process: Child,
    pub port: u16,
    /// What a proxy relays to, for as long as the proxy runs. On the load's core, and in none of the figures.
    _backend: Option<Box<Server>>,
}

impl Server {
    /// Starts a peer and waits until it answers.
    pub fn start(peer: &Peer, places: &Places) -> anyhow::Result<Server> {
        Server::start_on(CORE, peer, places)
    }

    fn start_on(core: usize, peer: &Peer, places: &Places) -> anyhow::Result<Server> {
        let command = match &peer.command {
            Ok(command) => command,
            Err(reason) => bail!("{reason}"),
        };
        let port = free_port()?;
        let mut words = vec![("{port}", port.to_string())];
        let mut backend = None;
        if let Some(proxy) = &peer.proxy {
            let server = Server::start_on(LOAD_CORE, &proxy.backend, places)?;
            words.push(("{backend}", server.port.to_string()));
            backend = Some(Box::new(server));
            if let Some(template) = &proxy.config {
                let config = places.scratch.join(format!("{}.config", peer.name));
                words.push(("{config}", config.to_string_lossy().into_owned()));
                fs::write(&config, filled(&fs::read_to_string(template)?, &words))?;
            }
        }
        let complaints = places.scratch.join(format!("{}.stderr", peer.name));
        let mut starting = Command::new(&command[0]);
        starting
            .args(command[1..].iter().map(|part| match part.to_str() {
                Some(text) => OsString::from(filled(text, &words)),
                None => part.clone(),
            }))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&complaints)?);
        on_core(&mut starting, core);
        let process = starting.spawn().with_context(|| format!("starting {}", peer.name))?;
        let mut server = Server { process, port, _backend: backend };
        server.wait_until_it_answers(&complaints)?;
        Ok(server)
    }

    fn wait_until_it_answers(&mut self, complaints: &PathBuf) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while sys::connect(Ipv4Addr::LOCALHOST, self.port).is_err() {
            if let Some(status) = self.process.try_wait()? {
                let complaint = fs::read_to_string(complaints).unwrap_or_default();
                bail!("it ended with {status}: {}", complaint.lines().last().unwrap_or_default());
            }
            if Instant::now() > deadline {
                bail!("it did not accept within {START:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        // The kernel accepts as soon as one process listens; a worker that it forks may not be there yet. Once that
        // connection has ended at the server as well, nothing of it falls into what is measured.
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).context("its end of a connection does not come")?;
        Ok(())
    }

    /// Its process, and those that this has forked and that still run.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = vec![self.process.id()];
        let mut looked_at = 0;
        while let Some(pid) = pids.get(looked_at) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            looked_at += 1;
        }
        Ok(pids)
    }

    /// What it has used of its core so far.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        self.pids()?.into_iter().map(sys::cpu_time).sum()
    }

    /// Its memory, exactly: `VmRSS` in `status` is counted in batches on each core.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in self.pids()? {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            sum += field(&text, "Rss:").context("no Rss in smaps_rollup")? * 1024;
        }
        Ok(sum)
    }

    /// How often any of its threads has slept and woken up.
    pub fn wake_ups(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let text = fs::read_to_string(task?.path().join("status"))?;
            sum += field(&text, "voluntary_ctxt_switches:").context("no voluntary_ctxt_switches")?;
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What a process has forked outlives it.
        for pid in self.pids().unwrap_or_default() {
            let _ = sys::signal(pid, libc::SIGKILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes a command run on one core, with as many descriptors as may be.
pub fn on_core(command: &mut Command, core: usize) {
    let prepare = move || {
        sys::raise_descriptor_limit()?;
        sys::pin(core)
    };
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

fn free_port() -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// A text with each of the words in it replaced.
fn filled(text: &str, words: &[(&str, String)]) -> String {
    words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
}

/// The number behind a name, in the style of /proc.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_configuration_is_filled_in() {
        let words = [("{port}", "7".to_owned()), ("{backend}", "8".to_owned())];
        assert_eq!(filled("TCP-LISTEN:{port},fork {port} {backend} {other}", &words), "TCP-LISTEN:7,fork 7 8 {other}");
    }

    #[test]
    fn what_a_server_forks_belongs_to_it_and_ends_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo; wait"]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        io::Read::read_exact(&mut process.stdout.take().unwrap(), &mut [0]).unwrap(); // It has forked.
        let server = Server { process, port: 0, _backend: None };
        let pids = server.pids().unwrap();
        assert_eq!(pids.len(), 2, "{pids:?}");
        drop(server);
        let runs = |pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let deadline = Instant::now() + START;
        while pids.iter().any(runs) {
            assert!(Instant::now() < deadline, "{pids:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_field_is_the_one_that_begins_so() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t12\nRss:   340 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(field(text, "Rss:"), Some(340));
        assert_eq!(field(text, "Pss:"), None);
    }
}
