//! What the process takes of the system: descriptors, memory, CPU.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

/// One reading; what the system does not tell is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    pub descriptors: u64,
    pub descriptors_max: u64,
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
}

impl Process {
    #[must_use]
    pub fn read() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        let cpu_seconds = usage.map_or(0.0, |usage| {
            let times = [usage.user_time(), usage.system_time()];
            times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum()
        });
        Self {
            descriptors: descriptors(Path::new("/proc/self/fd")),
            descriptors_max: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
            resident_bytes: resident().unwrap_or(0),
            cpu_seconds,
        }
    }
}

/// The kernel says their number as the size of the directory (from 6.2 on); before that they have
/// to be counted.
fn descriptors(dir: &Path) -> u64 {
    match std::fs::metadata(dir).map(|dir| dir.size()) {
        Ok(size @ 1..) => size,
        _ => std::fs::read_dir(dir).map_or(0, |entries| entries.count() as u64),
    }
}

fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_descriptors_memory_and_time() {
        let before = Process::read();
        let _file = std::fs::File::open("/proc/self/statm").unwrap();
        let _again = std::fs::File::open("/proc/self/statm").unwrap();
        assert!(before.descriptors >= 3 && before.descriptors < before.descriptors_max);
        assert!(before.resident_bytes > 1 << 20, "{before:?}");
        assert!(Process::read().cpu_seconds >= before.cpu_seconds);
    }
}
