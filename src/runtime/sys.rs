//! Raw system calls that no crate wraps as the data path needs them.
//!
//! Each function is one call. Those that get pointers get them from a live Rust reference or
//! from [`map_anonymous`]; none keeps one.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;

use libc::c_int;

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
