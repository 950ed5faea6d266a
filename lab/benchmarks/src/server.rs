//! One server process: started on its core, watched, ended.
//!
//! Owns the process and what /proc says about it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
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
}

impl Server {
    /// Starts a peer and waits until it accepts.
    pub fn start(peer: &Peer, places: &Places) -> anyhow::Result<Server> {
        let command = match &peer.command {
            Ok(command) => command,
            Err(reason) => bail!("{reason}"),
        };
        let port = free_port()?;
        let complaints = places.scratch.join(format!("{}.stderr", peer.name));
        let mut starting = Command::new(&command[0]);
        starting
            .args(
                command[1..]
                    .iter()
                    .map(|part| if part == "PORT" { OsString::from(port.to_string()) } else { part.clone() }),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&complaints)?);
        on_core(&mut starting, CORE);
        let process = starting.spawn().with_context(|| format!("starting {}", peer.name))?;
        let mut server = Server { process, port };
        server.wait_until_it_accepts(&complaints)?;
        Ok(server)
    }

    fn wait_until_it_accepts(&mut self, complaints: &PathBuf) -> anyhow::Result<()> {
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
        thread::sleep(Duration::from_millis(20)); // It sees the end of that first connection.
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has used of its core so far.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        sys::cpu_time(self.pid())
    }

    /// Its memory, exactly: `VmRSS` in `status` is counted in batches on each core.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()))?;
        Ok(field(&text, "Rss:").context("no Rss in smaps_rollup")? * 1024)
    }

    /// How often any of its threads has slept and woken up.
    pub fn wake_ups(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let text = fs::read_to_string(task?.path().join("status"))?;
            sum += field(&text, "voluntary_ctxt_switches:").context("no voluntary_ctxt_switches")?;
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
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

/// The number behind a name, in the style of /proc.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_the_one_that_begins_so() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t12\nRss:   340 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(field(text, "Rss:"), Some(340));
        assert_eq!(field(text, "Pss:"), None);
    }
}
