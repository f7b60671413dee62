#!/usr/bin/env python3
"""The work that is measured: the servers, the load, and what one unit costs the proxy.

Each piece of work gets a running proxy in front of its server and returns named figures.
CPU is that of the proxy alone, from just before the load to just after it.
"""

import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from proxies import KEY, admin_socket
from processes import LOAD_CORE, Failed, Process, free_port, need, pinned, run_load

IDLE_SESSIONS = 4000


class Work:
    """One row of the table."""

    id = ""
    title = ""
    # figure: (what it is, unit, bar against the best peer, whether less is better)
    figures = {}

    # What the proxy has to do, see proxies.py.
    duty = "tcp"

    def __init__(self, quick):
        self.quick = quick

    def prepare(self, samples, sluicegate):
        """Called before each round, with what was measured so far."""

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


def http_server(directory, size=0):
    """nginx with a short answer at `/`, and a file of `size` bytes at `/file`."""
    port = free_port()
    place = Path(directory) / f"server-{port}"
    place.mkdir()
    if size:
        with open(place / "file", "wb") as file:
            file.truncate(size)
    config = place / "nginx.conf"
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{name}_temp_path {place}/{name};" for name in places)
    config.write_text(
        f"""master_process off; daemon off; pid {place}/pid; error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
  access_log off; {temporary} keepalive_requests 100000000; sendfile on;
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {place};
    location = / {{ return 200 "{'x' * 128}"; }}
  }}
}}
"""
    )
    command = [need("nginx"), "-p", place, "-e", "stderr", "-c", config]
    return Process(command, port, LOAD_CORE, directory)


def wrk(url, seconds, connections, *more):
    """Requests, and requests per second."""
    words = ["-t1", f"-c{connections}", f"-d{seconds}s", *more, url]
    printed = run_load([need("wrk"), *words], timeout_s=60 + seconds)
    requests = re.search(r"(\d+) requests in ([\d.]+)s", printed)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    if not requests or wrong:
        raise Failed(f"wrk was not answered well: {printed}")
    return int(requests.group(1)), int(requests.group(1)) / float(requests.group(2))


class Http(Work):
    id = "P4"
    title = "HTTP/1.1 kept alive, 64 connections"
    duty = "http"
    figures = {
        "cpu": ("CPU per request", "µs", 0.80, True),
        "rate": ("requests per second", "/s", None, False),
    }

    def server(self, directory):
        return http_server(directory)

    def measure(self, proxy):
        url = f"http://127.0.0.1:{proxy.port}/"
        wrk(url, 1, 64)
        before = proxy.cpu_ns()
        requests, rate = wrk(url, 2 if self.quick else 5, 64)
        return {"cpu": (proxy.cpu_ns() - before) / 1e3 / requests, "rate": rate}


class Http2(Work):
    id = "P5"
    title = "HTTP/2 over TLS, 16 connections, 32 streams"
    duty = "https"
    figures = {
        "cpu": ("CPU per request", "µs", 1.0, True),
        "rate": ("requests per second", "/s", 1.0, False),
    }

    def server(self, directory):
        return http_server(directory)

    def measure(self, proxy):
        requests = 30_000 if self.quick else 120_000
        self.load(proxy.port, requests // 10)
        before = proxy.cpu_ns()
        rate = self.load(proxy.port, requests)
        return {"cpu": (proxy.cpu_ns() - before) / 1e3 / requests, "rate": rate}

    @staticmethod
    def load(port, requests):
        words = ["-n", requests, "-c", 16, "-m", 32, f"https://127.0.0.1:{port}/"]
        printed = run_load([need("h2load"), *words], timeout_s=300)
        found = re.search(r"finished in .*?, ([\d.]+) req/s", printed)
        good = re.search(r"status codes: (\d+) 2xx", printed)
        if not found or not good or int(good.group(1)) != requests:
            raise Failed(f"h2load was not answered well: {printed}")
        return float(found.group(1))


class Handshakes(Work):
    """`openssl s_time -new` makes a new TLS state for each connection, so nothing is resumed.
    (wrk keeps its state over connections, and resumes with whoever closes cleanly.)"""

    id = "P6"
    title = "full TLS 1.3 handshake and one request"
    duty = "https"
    figures = {
        "cpu": ("CPU per connection", "µs", 0.75, True),
        "rate": ("connections per second", "/s", None, False),
    }

    def server(self, directory):
        return http_server(directory)

    def measure(self, proxy):
        self.load(proxy.port, 1)
        before, began = proxy.cpu_ns(), time.monotonic()
        connections = self.load(proxy.port, 2 if self.quick else 4)
        seconds = time.monotonic() - began
        return {"cpu": (proxy.cpu_ns() - before) / 1e3 / connections, "rate": connections / seconds}

    @staticmethod
    def load(port, seconds):
        """Four clients at a time; how many connections they made."""
        words = ["s_time", "-connect", f"127.0.0.1:{port}", "-new", "-tls1_3", "-www", "/"]
        command = pinned(LOAD_CORE, [need("openssl"), *words, "-time", seconds])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        clients = [subprocess.Popen(command, **pipes) for _ in range(4)]
        # All have ended before any of them is judged.
        outputs = [client.communicate(timeout=60 + seconds)[0] for client in clients]
        total = 0
        for client, printed in zip(clients, outputs):
            found = re.search(r"(\d+) connections in \d+ real seconds, (\d+) bytes read", printed)
            if client.returncode or not found or not int(found.group(2)):
                raise Failed(f"openssl s_time was not answered well: {printed[-500:]}")
            total += int(found.group(1))
        return total


class TlsBulk(Work):
    id = "P7"
    title = "TLS bulk through a TCP listener, 4 streams"
    duty = "tls"
    size = 256 << 20
    figures = {
        "cpu": ("CPU per MB", "µs", 0.5, True),
        "rate": ("throughput", "MB/s", None, False),
    }

    def server(self, directory):
        return http_server(directory, self.size)

    def measure(self, proxy):
        url = f"https://127.0.0.1:{proxy.port}/file"
        times = 1 if self.quick else 2
        words = ["--silent", "--insecure", "--http1.1", "--parallel", "--parallel-max", 4]
        for _ in range(4 * times):
            words += ["--output", "/dev/null", url]
        before, began = proxy.cpu_ns(), time.monotonic()
        run_load([need("curl"), *words], timeout_s=120)
        megabytes = 4 * times * self.size / 1e6
        cpu = (proxy.cpu_ns() - before) / 1e3 / megabytes
        return {"cpu": cpu, "rate": megabytes / (time.monotonic() - began)}


class HttpLatency(Work):
    """At half of what HAProxy can do at most, in an open loop by our own load generator."""

    id = "P9"
    title = "HTTP/1.1 at half of HAProxy's rate, open loop"
    duty = "http"
    figures = {"p99": ("p99 latency", "µs", 1.0, True)}
    rate = 10_000

    def server(self, directory):
        return http_server(directory)

    def prepare(self, samples, sluicegate):
        self.generator = sluicegate.binary
        peaks = [sample["rate"] for sample in samples.get("P4", {}).get("HAProxy", [])]
        if peaks:
            self.rate = int(statistics.median(peaks) / 2)

    def measure(self, proxy):
        seconds = 2 if self.quick else 5
        words = ["bench", "http", f"http://127.0.0.1:{proxy.port}/", "--rate", self.rate]
        words += ["--connections", 64, "--duration", f"{seconds}s", "--json"]
        printed = run_load([self.generator, *words], timeout_s=120)
        return {"p99": json.loads(printed)["latency_us"]["p99"]}


def with_policies(count):
    """The same with policies on the route, at a rate that leaves the proxy idle half the time."""

    class Policies(HttpLatency):
        id = f"P10.{count}"
        title = f"HTTP/1.1 with {count} polic{'y' if count == 1 else 'ies'}"
        duty = f"http+{count}"
        figures = {
            "p50": ("p50 latency at 8,000/s", "µs", None, True),
            "cpu": ("CPU per request", "µs", None, True),
            "rate": ("requests per second", "/s", None, False),
        }

        def prepare(self, samples, sluicegate):
            self.generator = sluicegate.binary

        def measure(self, proxy):
            url = f"http://127.0.0.1:{proxy.port}/"
            header = f"X-Api-Key: {KEY}"
            seconds = 2 if self.quick else 4
            words = ["bench", "http", url, "--rate", 8_000, "--connections", 16]
            words += ["--header", header, "--duration", f"{seconds}s", "--json"]
            printed = run_load([self.generator, *words], timeout_s=120)
            before = proxy.cpu_ns()
            requests, rate = wrk(url, seconds, 64, "-H", header)
            cpu = (proxy.cpu_ns() - before) / 1e3 / requests
            return {"p50": json.loads(printed)["latency_us"]["p50"], "cpu": cpu, "rate": rate}

    return Policies


class Scraped(HttpLatency):
    """The same load with nobody looking, and with somebody who scrapes ten times a second: what
    it costs the proxy, and what clients see of it."""

    id = "S"
    title = "HTTP/1.1 at 8,000/s, metrics scraped 10 times a second"
    duty = "http+admin"
    figures = {
        "p50": ("p50 latency", "µs", None, True),
        "p50_alone": ("the same without scrapes", "µs", None, True),
        "p99": ("p99 latency", "µs", None, True),
        "p99_alone": ("the same without scrapes", "µs", None, True),
        "cpu": ("CPU per request", "µs", None, True),
        "cpu_alone": ("the same without scrapes", "µs", None, True),
    }
    pause = 0.1

    def prepare(self, samples, sluicegate):
        self.generator = sluicegate.binary
        self.rate = 8_000

    def server(self, directory):
        self.admin = admin_socket(directory)
        return super().server(directory)

    def measure(self, proxy):
        seconds = 2 if self.quick else 4
        self.load(proxy, 1)
        figures = self.load(proxy, seconds, "_alone")
        stop, scrapes = threading.Event(), []
        scraper = threading.Thread(target=self.scrape, args=(stop, scrapes))
        scraper.start()
        try:
            figures |= self.load(proxy, seconds)
        finally:
            stop.set()
            scraper.join()
        if len(scrapes) < seconds:
            raise Failed(f"only {len(scrapes)} scrapes in {seconds} s")
        return figures

    def load(self, proxy, seconds, name=""):
        words = ["bench", "http", f"http://127.0.0.1:{proxy.port}/", "--rate", self.rate]
        words += ["--connections", 16, "--duration", f"{seconds}s", "--json"]
        before = proxy.cpu_ns()
        latency = json.loads(run_load([self.generator, *words], timeout_s=120))["latency_us"]
        cpu = (proxy.cpu_ns() - before) / 1e3 / (self.rate * seconds)
        return {f"p50{name}": latency["p50"], f"p99{name}": latency["p99"], f"cpu{name}": cpu}

    def scrape(self, stop, scrapes):
        while not stop.wait(self.pause):
            with socket.socket(socket.AF_UNIX) as session:
                session.settimeout(10)
                session.connect(str(self.admin))
                session.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: session.recv(65536), b""))
            if not answer.startswith(b"HTTP/1.1 200"):
                return
            scrapes.append(len(answer))


POLICIES = tuple(with_policies(count) for count in (0, 1, 4, 8))
ALL = (RedisGet, NewConnections, Bulk, Http, Http2, Handshakes, TlsBulk, IdleSessions, HttpLatency, *POLICIES, Scraped)
