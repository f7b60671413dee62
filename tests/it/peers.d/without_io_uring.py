"""Runs a program where every call of io_uring is refused: without_io_uring.py PROGRAM ARG..."""

import errno
import os
import sys

import seccomp

guard = seccomp.SyscallFilter(defaction=seccomp.ALLOW)
for call in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
    guard.add_rule(seccomp.ERRNO(errno.EPERM), call)
guard.load()
os.execvp(sys.argv[1], sys.argv[1:])
