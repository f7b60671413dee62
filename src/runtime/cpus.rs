//! Which CPUs this process may use, and how much of them: what the number of workers follows.
//!
//! Two limits count: the affinity mask (`taskset`, cpusets) names CPUs; the cgroup's quota
//! (containers, systemd's `CPUQuota`) gives time, on whichever of them. Both are read once, at
//! start. Owns no thread and pins nothing; the worker does that.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The CPUs in this process's affinity mask, ascending. Empty if the kernel does not say.
#[must_use]
pub fn usable() -> Vec<usize> {
    let mask = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&cpu| mask.is_set(cpu).unwrap_or(false)).collect()
}

/// CPUs' worth of time that the cgroup allows, for example 1.5; `None` without a limit.
///
/// The tightest of the process's own cgroup and those above it, version 2 or 1.
#[must_use]
pub fn quota() -> Option<f64> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    quota_in(Path::new("/sys/fs/cgroup"), &membership)
}

/// How many workers start when the configuration does not say: one for each usable CPU, but no
/// more than the quota can keep busy. At least one.
#[must_use]
pub fn workers_default() -> usize {
    workers_for(usable().len(), quota())
}

/// One entry a worker: the CPU it is pinned to.
///
/// `configured` is `runtime.workers`. Workers that a quota made fewer than the CPUs are not
/// pinned: other containers with the same quota would choose the same first CPUs.
#[must_use]
pub fn placement(configured: Option<u16>) -> Vec<Option<usize>> {
    let usable = usable();
    let count = configured.map_or_else(workers_default, usize::from);
    let pin = !usable.is_empty() && (configured.is_some() || count >= usable.len());
    (0..count).map(|worker| pin.then(|| usable[worker % usable.len()])).collect()
}

fn workers_for(usable: usize, quota: Option<f64>) -> usize {
    let by_quota = quota.map_or(usize::MAX, |cpus| cpus.ceil() as usize);
    usable.min(by_quota).max(1)
}

/// `root` is where cgroups are mounted, `membership` is `/proc/self/cgroup`.
fn quota_in(root: &Path, membership: &str) -> Option<f64> {
    membership.lines().filter_map(|line| quota_of(root, line)).min_by(f64::total_cmp)
}

/// A line is `0::/path` for version 2, `4:cpu,cpuacct:/path` for a controller of version 1.
fn quota_of(root: &Path, line: &str) -> Option<f64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    if controllers.is_empty() {
        // Beside version 1 its hierarchy is mounted one level down, and has no CPU controller.
        return tightest(root, path, |dir| {
            let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            share(quota, period)
        });
    }
    if !controllers.split(',').any(|name| name == "cpu") {
        return None;
    }
    let mounted = [controllers, "cpu"].map(|name| root.join(name));
    let mount = mounted.iter().find(|dir| dir.is_dir())?;
    tightest(mount, path, |dir| {
        let quota = fs::read_to_string(dir.join("cpu.cfs_quota_us")).ok()?;
        let period = fs::read_to_string(dir.join("cpu.cfs_period_us")).ok()?;
        share(&quota, &period)
    })
}

/// The smallest quota from `path` up to the mount. A path from outside a container's view does
/// not exist below its mount; the mount itself then is the container's cgroup.
fn tightest(mount: &Path, path: &str, read: impl Fn(&Path) -> Option<f64>) -> Option<f64> {
    let own: PathBuf = mount.join(path);
    let levels = own.ancestors().take_while(|dir| dir.starts_with(mount));
    levels.filter_map(read).min_by(f64::total_cmp)
}

/// Microseconds of CPU time in a period, as a number of CPUs. `max` and `-1` are no limit.
fn share(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok().filter(|&quota| quota > 0.0)?;
    let period: f64 = period.trim().parse().ok().filter(|&period| period > 0.0)?;
    Some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroups(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().expect("below the root")).expect("made");
            fs::write(file, text).expect("written");
        }
        root
    }

    #[test]
    fn the_tightest_quota_on_the_way_up_counts() {
        let root = cgroups(&[("a/cpu.max", "150000 100000\n"), ("a/b/cpu.max", "max 100000\n")]);
        assert_eq!(quota_in(root.path(), "0::/a/b\n"), Some(1.5));
        assert_eq!(quota_in(root.path(), "0::/elsewhere\n"), None);
    }

    #[test]
    fn a_path_that_the_container_cannot_see_falls_back_to_its_mount() {
        let root = cgroups(&[("cpu.max", "50000 100000\n")]);
        assert_eq!(quota_in(root.path(), "0::/system.slice/docker-1234.scope\n"), Some(0.5));
    }

    #[test]
    fn version_1_is_read_from_its_own_controller() {
        let root = cgroups(&[
            ("cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n"),
            ("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        let membership = "5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n";
        assert_eq!(quota_in(root.path(), membership), Some(3.0));
    }

    #[test]
    fn no_more_workers_than_the_quota_keeps_busy_and_never_none() {
        assert_eq!(workers_for(8, None), 8);
        assert_eq!(workers_for(8, Some(1.5)), 2);
        assert_eq!(workers_for(2, Some(64.0)), 2);
        assert_eq!(workers_for(0, Some(0.1)), 1);
    }

    #[test]
    fn a_configured_number_of_workers_wraps_around_the_cpus() {
        let cpus = usable();
        let placed = placement(Some(3));
        assert_eq!(placed.len(), 3);
        assert_eq!(placed[0], cpus.first().copied());
        assert!(placed.iter().flatten().all(|cpu| cpus.contains(cpu)));
    }
}
