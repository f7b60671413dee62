//! Raw system calls that no crate wraps as the data path needs them.
//!
//! Each function is one call. Those that get pointers get them from a live Rust reference or
//! from [`map_anonymous`]; none keeps one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;

use libc::c_int;
use nix::errno::Errno;
use socket2::SockAddr;

use super::driver::{PathInfo, StreamOptions, TcpOptions};
use crate::net::Endpoint;

/// Address space that takes no memory until touched.
///
/// # Errors
/// mmap(2)'s: no address space, overcommit refused.
pub fn map_anonymous(len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mmap returned null"))
}

/// Ends a mapping made by [`map_anonymous`].
pub fn unmap(at: NonNull<u8>, len: usize) {
    // SAFETY: the caller owns the mapping and gives it up.
    unsafe { libc::munmap(at.as_ptr().cast(), len) };
}

/// A non-blocking event counter.
///
/// # Errors
/// eventfd(2)'s: no descriptor left.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a new descriptor that we own.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Adds one; a counter that is full already wakes its reader as well.
pub fn eventfd_signal(fd: &OwnedFd) {
    let _ = nix::unistd::write(fd, &1u64.to_ne_bytes());
}

/// Empties the counter.
pub fn eventfd_clear(fd: c_int) {
    let mut count = 0u64;
    // SAFETY: eight bytes are read into eight bytes.
    unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
}

/// Nanoseconds of `CLOCK_MONOTONIC`, through the vDSO.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is written.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// The address in the form the kernel takes it, and its length.
///
/// # Errors
/// A unix path that is longer than 107 bytes.
pub fn sockaddr(to: &Endpoint) -> io::Result<SockAddr> {
    match to {
        Endpoint::Ip(address) => Ok((*address).into()),
        Endpoint::Unix(path) => SockAddr::unix(path),
    }
}

fn check(result: isize) -> Result<u32, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result as u32) }
}

/// send(2) that neither waits nor raises SIGPIPE. `span` must be readable: it comes from
/// [`super::buffers::Buffers::span`] or a slice.
pub(super) fn send(fd: c_int, span: (*const u8, u32)) -> Result<u32, Errno> {
    // SAFETY: the caller's span is readable for the length of the call.
    check(unsafe {
        libc::send(fd, span.0.cast(), span.1 as usize, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    })
}

/// sendmsg(2) that neither waits nor raises SIGPIPE.
pub(super) fn send_parts(fd: c_int, parts: &[io::IoSlice<'_>]) -> Result<u32, Errno> {
    // SAFETY: an all-zero msghdr is valid; `IoSlice` has the layout of iovec, and the parts are
    // readable for the length of the call, which does not write to them.
    check(unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len();
        libc::sendmsg(fd, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    })
}

/// recv(2) that does not wait.
pub(super) fn recv(fd: c_int, room: &mut [u8]) -> Result<u32, Errno> {
    // SAFETY: the slice is writable for its length.
    check(unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) })
}

/// A FIN after what is queued.
pub(super) fn shutdown_write(fd: c_int) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// An RST, now (connect(2) with `AF_UNSPEC`); a unix socket, which has none, is shut down.
pub(super) fn disconnect(fd: c_int) {
    // SAFETY: an all-zero sockaddr is valid (family AF_UNSPEC) and outlives the call.
    unsafe {
        let unspecified: libc::sockaddr = std::mem::zeroed();
        let len = size_of::<libc::sockaddr>() as libc::socklen_t;
        if libc::connect(fd, &raw const unspecified, len) < 0 {
            libc::shutdown(fd, libc::SHUT_RDWR);
        }
    }
}

/// Bytes sent and not yet acknowledged.
#[must_use]
pub fn unsent(fd: c_int) -> u32 {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { 0 } else { bytes.max(0) as u32 }
}

/// getsockopt(`TCP_INFO`). Times are 0 until there was a first round trip.
pub(super) fn path(fd: c_int) -> Option<PathInfo> {
    // SAFETY: an all-zero tcp_info is valid, and no more than its length is written to it.
    let (result, info) = unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut len = size_of_val(&info) as libc::socklen_t;
        let at = (&raw mut info).cast();
        (libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len), info)
    };
    (result == 0 && info.tcpi_rtt > 0).then_some(PathInfo {
        rtt_us: info.tcpi_rtt,
        rttvar_us: info.tcpi_rttvar,
        retransmits: info.tcpi_total_retrans,
    })
}

type NameCall = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

fn name(fd: c_int, call: NameCall) -> Option<std::net::SocketAddr> {
    // SAFETY: `try_init` gives storage of the length it says; the call writes no more and
    // stores the true length.
    let result = unsafe {
        SockAddr::try_init(|storage, len| {
            if call(fd, storage.cast(), len) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })
    };
    result.ok()?.1.as_socket()
}

/// getpeername(2), for TCP.
pub(super) fn peer(fd: c_int) -> Option<std::net::SocketAddr> {
    name(fd, libc::getpeername)
}

/// getsockname(2), for TCP.
pub(super) fn local(fd: c_int) -> Option<std::net::SocketAddr> {
    name(fd, libc::getsockname)
}

/// splice(2) between a non-blocking socket and a pipe, in either direction.
pub(super) fn splice(from: c_int, to: c_int, max: u32) -> Result<u32, Errno> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: null offsets: neither side is a file.
    check(unsafe {
        libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), max as usize, flags)
    })
}

/// read(2) into the free tail of a chunk.
pub(super) fn read(fd: c_int, tail: (*mut u8, u32)) -> Result<u32, Errno> {
    // SAFETY: the caller's tail is writable for its length.
    check(unsafe { libc::read(fd, tail.0.cast(), tail.1 as usize) })
}

/// Sets one integer socket option.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_option(fd: c_int, level: c_int, option: c_int, value: c_int) -> Result<(), Errno> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the option is read from `value`, whose size is given.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) };
    check(result as isize).map(drop)
}

/// No small segment waits for the acknowledgement of the one before.
///
/// # Errors
/// setsockopt(2)'s; none is expected on a TCP socket.
pub fn set_no_delay(fd: c_int) -> Result<(), Errno> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Keep-alive and user timeout. On a listening socket, what it accepts has them.
///
/// # Errors
/// setsockopt(2)'s; none is expected on a TCP socket.
pub fn set_keep_alive(fd: c_int, options: &TcpOptions) -> Result<(), Errno> {
    let tcp = |option, value| set_option(fd, libc::IPPROTO_TCP, option, value);
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    tcp(libc::TCP_KEEPIDLE, options.keepalive_secs.clamp(1, 32_767) as c_int)?;
    tcp(libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECS)?;
    tcp(libc::TCP_KEEPCNT, KEEPALIVE_PROBES)?;
    tcp(libc::TCP_USER_TIMEOUT, options.user_timeout_ms.min(i32::MAX as u32) as c_int)
}

const KEEPALIVE_INTERVAL_SECS: c_int = 5;
const KEEPALIVE_PROBES: c_int = 3;

/// A non-blocking stream socket towards `to`, bound to a source address if one is given.
pub(super) fn open(to: &Endpoint, options: &StreamOptions) -> Result<c_int, Errno> {
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let family = match to {
        Endpoint::Ip(address) if address.is_ipv4() => libc::AF_INET,
        Endpoint::Ip(_) => libc::AF_INET6,
        Endpoint::Unix(_) => libc::AF_UNIX,
    };
    // SAFETY: no pointers; a non-negative result is a new descriptor.
    let fd = unsafe { libc::socket(family, flags, 0) };
    check(fd as isize)?;
    let set = || {
        if to.is_unix() {
            return Ok(());
        }
        set_no_delay(fd)?;
        let Some(source) = options.source else { return Ok(()) };
        // The port is chosen at connect, so that one port serves many destinations.
        set_option(fd, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        let source = SockAddr::from(std::net::SocketAddr::new(source, 0));
        // SAFETY: pointer and length describe a live SockAddr.
        check(unsafe { libc::bind(fd, source.as_ptr().cast(), source.len()) } as isize).map(drop)
    };
    set().inspect_err(|_| close(fd)).map(|()| fd)
}

pub(super) fn close(fd: c_int) {
    // SAFETY: no pointers. The caller owns the number and gives it up (D4).
    unsafe { libc::close(fd) };
}

/// A non-blocking pipe as large as the kernel grants, and its capacity in bytes.
///
/// # Errors
/// pipe2(2)'s: no descriptor left.
pub(super) fn pipe(wanted: u32) -> Result<([OwnedFd; 2], u32), Errno> {
    let mut fds = [0; 2];
    // SAFETY: two descriptors are written; we own them.
    let fds = unsafe {
        check(libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) as isize)?;
        fds.map(|fd| OwnedFd::from_raw_fd(fd))
    };
    // Without CAP_SYS_RESOURCE a user has 64 MiB of pipes in all: take a smaller one then.
    for size in [wanted, wanted / 4, wanted / 16] {
        // SAFETY: an integer argument.
        let granted = unsafe { libc::fcntl(fds[1].as_raw_fd(), libc::F_SETPIPE_SZ, size as c_int) };
        if granted > 0 {
            return Ok((fds, granted as u32));
        }
    }
    Ok((fds, 4096 * 16))
}

/// accept4(2), non-blocking.
pub(super) fn accept(listener: c_int) -> Result<c_int, Errno> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let none = std::ptr::null_mut();
    // SAFETY: null for an address that is not wanted.
    let fd = unsafe { libc::accept4(listener, none, none.cast(), flags) };
    check(fd as isize).map(|_| fd)
}

/// A classic BPF filter on a listening TCP socket that drops bare SYNs: no new handshake
/// begins here, those under way end, and what is queued can be accepted before the close.
pub(crate) fn drop_syns(listener: c_int) {
    const FLAGS_OFFSET: u32 = 13; // of the TCP header, where a socket filter's packet begins
    const SYN: u32 = 0x02;
    const SYN_ACK: u32 = 0x12;
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS_OFFSET),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN_ACK),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which outlives the call.
    unsafe {
        libc::setsockopt(
            listener,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        );
    }
}

/// Takes away what [`drop_syns`] of another process has left on a listening socket.
pub(crate) fn pass_syns(listener: c_int) {
    let nothing: c_int = 0;
    // SAFETY: the value is ignored, and outlives the call. Mostly there is no filter (ENOENT).
    unsafe {
        libc::setsockopt(
            listener,
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const nothing).cast(),
            size_of::<c_int>() as libc::socklen_t,
        );
    }
}

/// A descriptor that the kernel has just given to this process.
#[must_use]
pub fn own(fd: c_int) -> OwnedFd {
    // SAFETY: it came out of a message that was received (SCM_RIGHTS), or stands at a number that
    // the service manager says is ours (sd_listen_fds(3)); nobody else closes it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes what `command` starts an orphan, so that it is the child of whoever takes those up (a
/// service manager), and has it write its number to `tell`. The child in between ends at once.
pub(crate) fn orphan(command: &mut Command, tell: OwnedFd) {
    let last = || io::Error::last_os_error();
    let fork = move || {
        // SAFETY: no function that is called between here and exec(2) takes a lock or memory
        // (signal-safety(7)): this is the child of a process that had other threads. `_exit` and
        // `write` have live arguments; clone(2) without a stack is fork(2).
        unsafe {
            match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
                -1 => Err(last()),
                0 => {
                    let pid = libc::getpid().to_ne_bytes();
                    let told = libc::write(tell.as_raw_fd(), pid.as_ptr().cast(), pid.len());
                    if told < 0 { Err(last()) } else { Ok(()) }
                }
                _ => libc::_exit(0),
            }
        }
    };
    // SAFETY: see `fork`.
    unsafe { command.pre_exec(fork) };
}

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: it takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(own(fd as c_int)) }
}

/// Whether the process has ended; its descriptor is readable then.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    poll_mask(pidfd.as_raw_fd(), libc::POLLIN) != 0
}

/// SIGKILL, to a process that may have ended.
pub(crate) fn kill(pidfd: &OwnedFd) {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without information the kernel makes its own.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, none, 0);
    }
}

/// The descriptors that a service manager passes, from number 3 on.
///
/// # Errors
/// When there are fewer than it said.
pub fn inherited(count: u32) -> io::Result<Vec<OwnedFd>> {
    (3..3_i32.saturating_add_unsigned(count))
        .map(|fd| {
            nix::fcntl::fcntl(
                // SAFETY: only looked at, and refused here if it is not open.
                unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) },
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
            )?;
            Ok(own(fd))
        })
        .collect()
}

/// What standard input is, which then is `/dev/null`.
///
/// # Errors
/// dup(2)'s or open(2)'s.
pub fn take_stdin() -> io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(taken)
}

/// A set of descriptors whose readiness is asked for at once.
///
/// # Errors
/// epoll_create1(2)'s: no descriptor left.
pub(super) fn epoll_new() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a new descriptor that we own.
    unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Adds `fd` with its own number as data; one that is there already is looked at anew.
///
/// # Errors
/// epoll_ctl(2)'s: no memory, over `fs.epoll.max_user_watches`.
pub(super) fn epoll_add(epoll: &OwnedFd, fd: c_int, events: u32) -> Result<(), Errno> {
    let mut event = libc::epoll_event { events, u64: fd as u64 };
    let mut control = |what| {
        // SAFETY: the event is read and outlives the call.
        check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), what, fd, &raw mut event) } as isize)
    };
    match control(libc::EPOLL_CTL_ADD) {
        Err(Errno::EEXIST) => control(libc::EPOLL_CTL_MOD).map(drop),
        result => result.map(drop),
    }
}

/// Takes `fd` out, which a close does only if nobody else has the same open socket.
pub(super) fn epoll_remove(epoll: &OwnedFd, fd: c_int) {
    // SAFETY: a removal takes no event.
    unsafe {
        libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut());
    }
}

/// Waits for events. With `fine`, to the nanosecond (epoll_pwait2(2)); it is unset where that is
/// not to be had, and then milliseconds are rounded up.
///
/// # Errors
/// epoll_wait(2)'s, but an interrupted wait is one without events.
pub(super) fn epoll_wait(
    epoll: &OwnedFd,
    events: &mut [libc::epoll_event],
    wait_ns: u64,
    fine: &mut bool,
) -> Result<usize, Errno> {
    let (fd, room) = (epoll.as_raw_fd(), events.len() as c_int);
    let timeout = libc::timespec {
        tv_sec: (wait_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (wait_ns % 1_000_000_000) as libc::c_long,
    };
    // Not waiting at all needs no clock, and the older call is there everywhere.
    if *fine && wait_ns > 0 {
        let none = std::ptr::null::<libc::sigset_t>();
        // SAFETY: the slice takes as many events as is said, the timeout outlives the call.
        let result = check(unsafe {
            let at = events.as_mut_ptr();
            libc::syscall(libc::SYS_epoll_pwait2, fd, at, room, &raw const timeout, none, 0usize)
        } as isize);
        match result {
            // Older kernels, and sandboxes that are older than the call.
            Err(Errno::ENOSYS | Errno::EPERM) => *fine = false,
            Err(Errno::EINTR) => return Ok(0),
            result => return result.map(|count| count as usize),
        }
    }
    let rounded = wait_ns.div_ceil(1_000_000).min(i32::MAX as u64) as c_int;
    // SAFETY: the slice takes as many events as is said.
    match check(unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), room, rounded) } as isize) {
        Err(Errno::EINTR) => Ok(0),
        result => result.map(|count| count as usize),
    }
}

/// The poll(2) mask of a descriptor now: `events`, and errors and hang-ups unasked.
pub(super) fn poll_mask(fd: c_int, events: libc::c_short) -> u32 {
    let mut asked = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry is read and written.
    unsafe { libc::poll(&raw mut asked, 1, 0) };
    u32::from(asked.revents as u16)
}

/// connect(2).
pub(super) fn connect(fd: c_int, to: &SockAddr) -> Result<(), Errno> {
    // SAFETY: pointer and length describe a live SockAddr.
    check(unsafe { libc::connect(fd, to.as_ptr().cast(), to.len()) } as isize).map(drop)
}

/// The value of an integer socket option; `None` if it has none.
pub(super) fn option(fd: c_int, level: c_int, option: c_int) -> Option<c_int> {
    let (mut value, mut len) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: at most `len` bytes are written to `value`.
    let result =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut len) };
    (result == 0).then_some(value)
}

/// Random numbers from the kernel, for keys of hash tables and seeds.
#[must_use]
pub fn secret() -> [u64; 2] {
    let mut words = [0u64; 2];
    // SAFETY: sixteen bytes are written into sixteen bytes.
    let got = unsafe { libc::getrandom((&raw mut words).cast(), size_of_val(&words), 0) };
    debug_assert_eq!(got, 16, "getrandom of 16 bytes neither blocks nor fails after boot");
    words
}
