//! What a process holds of the machine, as the kernel says.

use std::fs;

/// Its memory, in bytes.
pub(crate) fn resident_bytes(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Its threads.
pub(crate) fn threads(process: u32) -> usize {
    entries(process, "task")
}

/// Its open files.
pub(crate) fn descriptors(process: u32) -> usize {
    entries(process, "fd")
}

fn entries(process: u32, what: &str) -> usize {
    fs::read_dir(format!("/proc/{process}/{what}")).unwrap().count()
}
