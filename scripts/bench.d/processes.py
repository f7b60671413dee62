#!/usr/bin/env python3
"""Processes: starting them on one core, what they cost, ending them by pid."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

PROXY_CORE = 0
LOAD_CORE = 1

PATIENCE_S = 15.0


class Failed(Exception):
    """A measurement that could not be made; the message says which and why."""


def free_port():
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pinned(core, command):
    return ["taskset", "--cpu-list", str(core), *map(str, command)]


def need(program):
    found = shutil.which(program)
    if not found:
        raise Failed(f"{program} is not installed: run scripts/install-peers")
    return found


def run_load(command, timeout_s):
    """Runs a load generator to its end on its core and returns what it printed."""
    done = subprocess.run(
        pinned(LOAD_CORE, command), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Process:
    """A server that listens on `port`; a context manager that ends it and its children.

    `ready` is a URL that answers 200 once it serves, for those that accept before they do.
    """

    def __init__(self, command, port, core, directory, environment=None, ready=None):
        self.command = [str(word) for word in command]
        self.port = port
        self.core = core
        self.log = Path(directory) / f"{Path(self.command[0]).name}-{port}.log"
        self.environment = {**os.environ, **(environment or {})}
        self.ready = ready
        self.child = None

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                pinned(self.core, self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        try:
            self.wait_until_it_accepts()
        except Failed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self.child.poll() is not None:
                break
            # Its own session, so its own process group: nobody else is in it.
            os.killpg(self.child.pid, how)
            try:
                self.child.wait(timeout=3)
            except subprocess.TimeoutExpired:
                continue

    def wait_until_it_accepts(self):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                if self.ready:
                    urllib.request.urlopen(self.ready, timeout=1).close()
                return
            except OSError:  # an answer that is none too: urllib.error.URLError is one
                time.sleep(0.02)
        raise Failed(f"{self.command[0]} does not accept on port {self.port}\n{self.log.read_text()}")

    def pids(self):
        """The process and its descendants."""
        found, waiting = [], [self.child.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            try:
                tasks = os.listdir(f"/proc/{pid}/task")
            except FileNotFoundError:
                continue
            for task in tasks:
                try:
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                except FileNotFoundError:
                    continue
                waiting.extend(int(child) for child in children.split())
        return found

    def cpu_ns(self):
        """User and system time of all threads so far, kernel workers of its ring included."""
        total = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                try:
                    total += int((task / "schedstat").read_text().split()[0])
                except FileNotFoundError:
                    pass
        return total

    def resident_bytes(self):
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
        return total
