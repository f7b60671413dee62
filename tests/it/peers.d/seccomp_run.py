"""Runs a program under a seccomp profile in Docker's form: seccomp_run.py PROFILE PROGRAM ARG..."""

import json
import os
import sys

import seccomp

ACTIONS = {"SCMP_ACT_ALLOW": seccomp.ALLOW}

with open(sys.argv[1], encoding="utf-8") as file:
    profile = json.load(file)
assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
guard = seccomp.SyscallFilter(defaction=seccomp.ERRNO(profile["defaultErrnoRet"]))
for rule in profile["syscalls"]:
    for name in rule["names"]:
        try:
            guard.add_rule(ACTIONS[rule["action"]], name)
        except RuntimeError:
            # Newer than the library.
            print(f"{name} is not known here", file=sys.stderr)
guard.load()
os.execv(sys.argv[2], sys.argv[2:])
