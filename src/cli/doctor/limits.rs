//! Limits of the process and of the network stack, as numbers of sessions where possible.
//!
//! What is not readable (a container may hide parts of /proc/sys) is left out, not guessed.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Finding, grouped, number};
use crate::runtime::cpus;
use crate::runtime::uring::UringConfig;
use crate::runtime::worker::sessions_for;

/// `backlog` of a listener when the configuration does not say (docs/configuration.md).
const BACKLOG_DEFAULT: u64 = 4_096;
/// Sessions that a small server has to carry; fewer are worth a word.
const SESSIONS_WANTED: u64 = 10_000;
const PAGE_BYTES: u64 = 4_096;

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        findings.push(open_files(hard));
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) {
        findings.push(locked_memory(soft));
    }
    findings.extend(number("/proc/sys/net/core/somaxconn").map(backlog));
    let cookies = number("/proc/sys/net/ipv4/tcp_syncookies");
    let queue = number("/proc/sys/net/ipv4/tcp_max_syn_backlog");
    findings.extend(queue.map(|queue| handshakes(queue, cookies)));
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    findings.extend(range.and_then(|text| local_ports(&text)));
    findings.extend(
        number("/proc/sys/fs/pipe-user-pages-soft")
            .map(|pages| pipes(pages, cpus::workers_default())),
    );
    let tracked = number("/proc/sys/net/netfilter/nf_conntrack_max");
    findings.extend(tracked.map(connection_tracking));
    findings
}

/// `run` raises the soft limit to the hard one, so the hard one counts.
fn open_files(hard: u64) -> Finding {
    if hard == RLIM_INFINITY {
        return Finding::ok("open files", "no limit");
    }
    let sessions = u64::from(sessions_for(hard));
    let found = format!("{} hard limit: {} sessions", grouped(hard), grouped(sessions));
    if sessions < SESSIONS_WANTED {
        let remedy = "a session takes two descriptors: raise it with LimitNOFILE= in the unit, \
                      --ulimit nofile= in Docker, or `ulimit -n`";
        return Finding::warn("open files", found, remedy);
    }
    Finding::ok("open files", found)
}

/// Rings are charged to the memory cgroup since 5.12; what is left is small.
fn locked_memory(soft: u64) -> Finding {
    const ENOUGH: u64 = 64 << 10;
    let found = match soft {
        RLIM_INFINITY => "no limit".to_owned(),
        bytes => format!("{} KiB", grouped(bytes >> 10)),
    };
    if soft < ENOUGH {
        let remedy = "raise it to 64 KiB or more: LimitMEMLOCK= in the unit, or `ulimit -l`";
        return Finding::warn("locked memory", found, remedy);
    }
    Finding::ok("locked memory", found)
}

fn backlog(somaxconn: u64) -> Finding {
    let found =
        format!("somaxconn {}, default backlog {}", grouped(somaxconn), grouped(BACKLOG_DEFAULT));
    if somaxconn < BACKLOG_DEFAULT {
        let remedy = format!(
            "the kernel cuts every backlog to somaxconn: sysctl -w net.core.somaxconn={BACKLOG_DEFAULT}"
        );
        return Finding::warn("accept queue", found, remedy);
    }
    Finding::ok("accept queue", found)
}

fn handshakes(queue: u64, cookies: Option<u64>) -> Finding {
    let protected = cookies.is_none_or(|value| value > 0);
    let found = format!(
        "tcp_max_syn_backlog {}, SYN cookies {}",
        grouped(queue),
        if protected { "on" } else { "off" }
    );
    if !protected {
        let remedy = "a SYN flood fills the queue and clients are dropped: \
                      sysctl -w net.ipv4.tcp_syncookies=1";
        return Finding::warn("SYN queue", found, remedy);
    }
    Finding::ok("SYN queue", found)
}

/// `text` is `low<TAB>high`.
fn local_ports(text: &str) -> Option<Finding> {
    let mut bounds = text.split_whitespace().map_while(|word| word.parse::<u64>().ok());
    let (low, high) = (bounds.next()?, bounds.next()?);
    let ports = (high + 1).saturating_sub(low);
    let found = format!("{low}-{high}: {} sessions to one server address", grouped(ports));
    if ports < SESSIONS_WANTED {
        let remedy = "sysctl -w net.ipv4.ip_local_port_range='10240 65535', \
                      or give the pool more addresses with `source`";
        return Some(Finding::warn("local ports", found, remedy));
    }
    Some(Finding::ok("local ports", found))
}

/// Pipes carry bulk flows; a user without `CAP_SYS_RESOURCE` shares this many pages.
fn pipes(pages_soft: u64, workers: usize) -> Finding {
    let config = UringConfig::default();
    let wanted = workers as u64 * u64::from(config.pipes_max) * u64::from(config.pipe_bytes);
    let have = pages_soft * PAGE_BYTES;
    let found = |text: String| format!("{text}, {} MiB used when all workers splice", wanted >> 20);
    if pages_soft == 0 {
        return Finding::ok("pipe memory", found("no limit".to_owned()));
    }
    let found = found(format!("{} MiB a user", have >> 20));
    if have < wanted {
        let remedy = format!(
            "bulk flows past it move in smaller pieces: sysctl -w fs.pipe-user-pages-soft={}",
            wanted / PAGE_BYTES
        );
        return Finding::warn("pipe memory", found, remedy);
    }
    Finding::ok("pipe memory", found)
}

/// A proxied session is two tracked connections.
fn connection_tracking(max: u64) -> Finding {
    let sessions = max / 2;
    let found = format!("nf_conntrack_max {}: {} sessions", grouped(max), grouped(sessions));
    if sessions < SESSIONS_WANTED {
        let remedy = "a full table drops new connections: raise net.netfilter.nf_conntrack_max, \
                      or exempt the listeners with `notrack`";
        return Finding::warn("conntrack", found, remedy);
    }
    Finding::ok("conntrack", found)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Ok, Warn};
    use super::*;

    #[test]
    fn few_descriptors_are_said_as_sessions() {
        let finding = open_files(1_024);
        assert_eq!(
            (finding.verdict, finding.found.as_str()),
            (Warn, "1,024 hard limit: 480 sessions")
        );
        assert_eq!(open_files(1_048_576).verdict, Ok);
        assert_eq!(open_files(RLIM_INFINITY).verdict, Ok);
    }

    #[test]
    fn a_backlog_that_the_kernel_would_cut_is_said() {
        assert_eq!([128, 4_096].map(|max| backlog(max).verdict), [Warn, Ok]);
    }

    #[test]
    fn a_small_syn_queue_is_fine_with_cookies() {
        assert_eq!(handshakes(128, Some(1)).verdict, Ok);
        assert_eq!(handshakes(128, Some(0)).verdict, Warn);
    }

    #[test]
    fn ports_are_counted_with_both_ends() {
        let finding = local_ports("32768\t60999\n").expect("two numbers");
        assert_eq!(finding.found, "32768-60999: 28,232 sessions to one server address");
        assert_eq!(local_ports("40000\t40999").expect("two numbers").verdict, Warn);
        assert_eq!(local_ports("nonsense"), None);
    }

    #[test]
    fn pipe_memory_is_judged_by_the_number_of_workers() {
        assert_eq!(pipes(16_384, 2).verdict, Ok);
        assert_eq!(pipes(16_384, 64).verdict, Warn);
        assert_eq!(pipes(0, 64).verdict, Ok);
    }
}
