//! The host: kernel, CPUs, and whether this is a container.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::config::plan::EngineChoice;
use crate::runtime::{cpus, engine};

/// The first kernel with everything that `io_uring` is used for (`DEFER_TASKRUN`).
const KERNEL_MIN: (u32, u32) = (6, 1);

pub(super) fn examine() -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let runs = engine::choose(EngineChoice::Auto).is_ok();
    let mut findings = vec![kernel(release.trim(), runs)];
    let allowed = cpus::usable();
    findings.push(workers(&allowed, cpus::quota(), cpus::workers_default()));
    findings.extend(container());
    findings
}

/// `runs`: there is an engine for it all the same.
fn kernel(release: &str, runs: bool) -> Finding {
    let found = format!("Linux {release}");
    let remedy =
        "use Linux 6.1 or newer: an older one has not all of io_uring, and epoll is slower";
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_MIN => Finding::ok("kernel", found),
        (Some(_), Some(_)) if runs => Finding::warn("kernel", found, remedy),
        (Some(_), Some(_)) => Finding::bad("kernel", found, remedy),
        _ => Finding::warn("kernel", format!("unreadable release `{release}`"), remedy),
    }
}

fn workers(usable: &[usize], quota: Option<f64>, workers: usize) -> Finding {
    let cpus = match usable {
        [] => "unknown CPUs".to_owned(),
        [only] => format!("CPU {only}"),
        [first, .., last] if last - first + 1 == usable.len() => format!("CPUs {first}-{last}"),
        some => format!("{} CPUs", some.len()),
    };
    let plural = if workers == 1 { "worker" } else { "workers" };
    let Some(quota) = quota else {
        return Finding::ok("workers", format!("{workers} {plural} on {cpus}, no CPU quota"));
    };
    let found = format!("{workers} {plural} on {cpus}, quota {quota:.2} CPUs");
    if quota < workers as f64 {
        let remedy = "a worker that has used up the quota stops for the rest of the period \
                      (up to 100 ms): give a whole number of CPUs, or set runtime.workers lower";
        return Finding::warn("workers", found, remedy);
    }
    Finding::ok("workers", found)
}

/// Which container runtime this looks like, and whether it filters system calls.
fn container() -> Option<Finding> {
    let kind = if Path::new("/run/.containerenv").exists() {
        "Podman"
    } else if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        "Kubernetes"
    } else if Path::new("/.dockerenv").exists() {
        "Docker"
    } else {
        return None;
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Some(filter(kind, is_filtered(&status)))
}

fn is_filtered(status: &str) -> bool {
    status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]))
}

fn filter(kind: &str, filtered: bool) -> Finding {
    let found = if filtered {
        format!("{kind}, with a seccomp filter; whether it lets io_uring pass is the next line")
    } else {
        format!("{kind}, without a seccomp filter")
    };
    Finding::ok("container", found)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        let verdicts = ["5.15.0-91-generic", "6.0.19", "6.1.0-18-amd64", "6.18.4", "10.0"]
            .map(|release| kernel(release, false).verdict);
        use Verdict::{Bad, Ok, Warn};
        assert_eq!(verdicts, [Bad, Bad, Ok, Ok, Ok]);
        assert_eq!(kernel("unknown", false).verdict, Warn);
    }

    #[test]
    fn an_old_kernel_is_no_obstacle_where_an_engine_runs() {
        assert_eq!(kernel("5.15.0-91-generic", true).verdict, Verdict::Warn);
    }

    #[test]
    fn a_quota_that_the_workers_exceed_is_said() {
        assert_eq!(workers(&[0, 1], Some(1.5), 2).verdict, Verdict::Warn);
        assert_eq!(workers(&[0, 1], Some(2.0), 2).verdict, Verdict::Ok);
        assert_eq!(workers(&[0, 1], None, 2).found, "2 workers on CPUs 0-1, no CPU quota");
        assert_eq!(workers(&[3], None, 1).found, "1 worker on CPU 3, no CPU quota");
        assert_eq!(workers(&[0, 2], None, 2).found, "2 workers on 2 CPUs, no CPU quota");
    }

    #[test]
    fn a_seccomp_filter_is_recognised() {
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
    }
}
