//! What the figures were measured on.

use std::fs;
use std::thread;

use serde::Serialize;

/// The machine, as far as it matters.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_gib: u64,
    pub is_virtual: bool,
    pub descriptors: u64,
    /// Of the last minute before the run: what else the cores had to do. Should be far below 1.
    pub load_average: f64,
}

impl Machine {
    /// This one.
    pub fn here(descriptors: u64) -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kilobytes = value(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Machine {
            cpu: value(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            memory_gib: kilobytes.unwrap_or_default() / 1024 / 1024,
            is_virtual: value(&cpuinfo, "flags").is_some_and(|flags| flags.contains("hypervisor")),
            descriptors,
            load_average: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        }
    }
}
