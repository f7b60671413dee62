#!/usr/bin/env python3
"""The work that is measured: the servers, the load, and what one unit costs the proxy.

Each piece of work gets a running proxy in front of its server and returns named figures.
CPU is that of the proxy alone, from just before the load to just after it.
"""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from processes import LOAD_CORE, Failed, Process, free_port, need, pinned, run_load

IDLE_SESSIONS = 4000


class Work:
    """One row of the table."""

    id = ""
    title = ""
    # figure: (what it is, unit, bar against the best peer, whether less is better)
    figures = {}

    def __init__(self, quick):
        self.quick = quick

    def server(self, directory):
        raise NotImplementedError

    def measure(self, proxy):
        raise NotImplementedError


def redis_server(directory):
    port = free_port()
    words = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    words += ["--maxclients", "9000", "--tcp-backlog", "4096", "--dir", directory]
    return Process([need("redis-server"), *words], port, LOAD_CORE, directory)


def redis_load(port, requests, keep):
    words = ["-p", port, "-t", "get", "-c", "50", "-n", requests, "-k", int(keep), "-q"]
    printed = run_load([need("redis-benchmark"), "-h", "127.0.0.1", *words], timeout_s=300)
    # Progress is written over with carriage returns; the last line is the result.
    last = printed.replace("\r", "\n").strip().splitlines()[-1]
    found = re.search(r"GET: ([\d.]+) requests per second", last)
    if not found:
        raise Failed(f"redis-benchmark printed no result: {last}")
    return float(found.group(1))


class RedisGet(Work):
    id = "P1"
    title = "Redis GET, 50 connections"
    figures = {
        "cpu": ("CPU per request", "µs", 0.75, True),
        "rate": ("requests per second", "/s", None, False),
    }

    def server(self, directory):
        return redis_server(directory)

    def measure(self, proxy):
        requests = 80_000 if self.quick else 300_000
        redis_load(proxy.port, requests // 10, keep=True)
        before = proxy.cpu_ns()
        rate = redis_load(proxy.port, requests, keep=True)
        return {"cpu": (proxy.cpu_ns() - before) / 1e3 / requests, "rate": rate}


class NewConnections(Work):
    """The client closes after each answer, so TIME_WAIT is on its side and on the proxy's.

    On loopback the kernel reuses such ports after a second (net.ipv4.tcp_tw_reuse = 2), so
    28,000 ports are enough for the rates that are possible here.
    """

    id = "P2"
    title = "new connection per request, 50 at a time"
    figures = {
        "cpu": ("CPU per connection", "µs", 0.80, True),
        "rate": ("connections per second", "/s", None, False),
    }

    def server(self, directory):
        return redis_server(directory)

    def measure(self, proxy):
        connections = 12_000 if self.quick else 40_000
        redis_load(proxy.port, connections // 10, keep=False)
        before = proxy.cpu_ns()
        rate = redis_load(proxy.port, connections, keep=False)
        return {"cpu": (proxy.cpu_ns() - before) / 1e3 / connections, "rate": rate}


class Bulk(Work):
    id = "P3"
    title = "iperf3, 4 streams"
    figures = {
        "cpu": ("CPU per MB", "µs", 0.20, True),
        "rate": ("throughput", "MB/s", 1.20, False),
    }

    def server(self, directory):
        port = free_port()
        words = ["--server", "--bind", "127.0.0.1", "--port", port]
        return Process([need("iperf3"), *words], port, LOAD_CORE, directory)

    def measure(self, proxy):
        seconds = 2 if self.quick else 4
        words = ["--client", "127.0.0.1", "--port", proxy.port, "--parallel", 4]
        words += ["--time", seconds, "--json"]
        iperf3_ready(proxy.port)
        before = proxy.cpu_ns()
        printed = run_load([need("iperf3"), *words], timeout_s=60)
        cpu = proxy.cpu_ns() - before
        received = json.loads(printed)["end"]["sum_received"]
        megabytes = received["bytes"] / 1e6
        return {"cpu": cpu / 1e3 / megabytes, "rate": megabytes / received["seconds"]}


def iperf3_ready(port):
    """The look whether the proxy accepts occupies the server, which serves one client at a time."""
    words = ["--client", "127.0.0.1", "--port", port, "--bytes", "1M", "--json"]
    for _ in range(50):
        done = subprocess.run(
            pinned(LOAD_CORE, [need("iperf3"), *words]), capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and "error" not in json.loads(done.stdout):
            return
        time.sleep(0.1)
    raise Failed(f"iperf3 gets no test through port {port}: {done.stdout}{done.stderr}")


class IdleSessions(Work):
    id = "P8"
    title = f"{IDLE_SESSIONS:,} idle sessions after one exchange"
    figures = {"memory": ("resident bytes per session", "B", 0.20, True)}
    # Not only a ratio: this many bytes at most.
    memory_max = 512

    def server(self, directory):
        port = free_port()
        command = [sys.executable, Path(__file__).with_name("echo.py"), port]
        return Process(command, port, LOAD_CORE, directory)

    def measure(self, proxy):
        exchange(connect(proxy.port))
        time.sleep(0.5)
        before = proxy.resident_bytes()
        sessions = []
        try:
            for _ in range(IDLE_SESSIONS):
                sessions.append(connect(proxy.port))
                exchange(sessions[-1])
            time.sleep(1.0)
            return {"memory": (proxy.resident_bytes() - before) / IDLE_SESSIONS}
        finally:
            for session in sessions:
                session.close()


def connect(port):
    session = socket.create_connection(("127.0.0.1", port), timeout=10)
    session.settimeout(10)
    return session


def exchange(session):
    message = b"x" * 64
    session.sendall(message)
    got = b""
    while len(got) < len(message):
        part = session.recv(len(message))
        if not part:
            raise Failed("a session was closed instead of answered")
        got += part


ALL = (RedisGet, NewConnections, Bulk, IdleSessions)
