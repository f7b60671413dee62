#!/usr/bin/env python3
"""Calls grpc_server.py through whatever is at HOST:PORT; ends with 0 if all is well.

usage: grpc_client.py all|pauses HOST:PORT [FILE NAME]

With a file of certificates and a name, it speaks TLS and offers h2 by ALPN, as gRPC does.
"""
import queue
import sys
import time
from concurrent import futures

import grpc

PATIENCE = 20


def channel_to(address, authorities=None, name=None):
    if authorities is None:
        return grpc.insecure_channel(address)
    with open(authorities, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = [("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(address, credentials, options)


def refusal(call):
    """The error that a call or a stream ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def unary(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    for message in [b"hello", b"", bytes(range(256)) * 12_000]:
        answer, told = call.with_call(message, timeout=PATIENCE)
        assert answer == message
        initial = dict(told.initial_metadata())
        assert (initial["x-initial"], initial["x-bytes-bin"]) == ("first", b"\x00\xff"), initial
        assert ("x-trailer", "last") in told.trailing_metadata(), told.trailing_metadata()
        assert told.code() == grpc.StatusCode.OK
    with futures.ThreadPoolExecutor(16) as pool:
        messages = [b"%d" % number for number in range(400)]
        assert list(pool.map(lambda message: call(message, timeout=PATIENCE), messages)) == messages


def streams(channel):
    stream = channel.unary_stream("/test.Echo/Stream")
    assert list(stream(b"1000", timeout=PATIENCE)) == [b"%d" % number for number in range(1000)]
    assert not list(stream(b"0", timeout=PATIENCE))
    collect = channel.stream_unary("/test.Echo/Collect")
    pieces = [b"x" * 40_000] * 50
    assert collect(iter(pieces), timeout=PATIENCE) == b"".join(pieces)


def converse(channel):
    """Each message waits for the answer to the one before: none may be held back on the way."""
    sent = queue.Queue()
    answers = channel.stream_stream("/test.Echo/Converse")(iter(sent.get, None), timeout=PATIENCE)
    for turn in range(200):
        sent.put(b"turn %d" % turn)
        assert next(answers) == b"turn %d" % turn
    sent.put(None)
    assert not list(answers)


def failures(channel):
    error = refusal(lambda: channel.unary_unary("/test.Echo/Fail")(b"", timeout=PATIENCE))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: grün")
    assert ("x-trailer", "last") in error.trailing_metadata()
    answers = channel.unary_stream("/test.Echo/FailLate")(b"", timeout=PATIENCE)
    assert next(answers) == b"first"
    error = refusal(lambda: next(answers))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "the rest is lost")
    error = refusal(lambda: channel.unary_unary("/test.Echo/Nothing")(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    # Made by the gateway: a pool whose server is away, and a path without a route.
    error = refusal(lambda: channel.unary_unary("/test.Away/Unary")(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    error = refusal(lambda: channel.unary_unary("/other.Echo/Unary")(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def limits(channel):
    hang = channel.unary_stream("/test.Echo/Hang")
    error = refusal(lambda: list(hang(b"", timeout=0.5)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    answers = hang(b"")
    assert next(answers) == b"hanging"
    answers.cancel()
    assert answers.cancelled()


def pauses(channel):
    """Nobody says anything for a while: before the first message, and between two."""
    sent = queue.Queue()
    answers = channel.stream_stream("/test.Echo/Converse")(iter(sent.get, None), timeout=PATIENCE)
    for turn in range(3):
        time.sleep(0.5)
        sent.put(b"turn %d" % turn)
        assert next(answers) == b"turn %d" % turn
    sent.put(None)
    assert not list(answers)


PARTS = {"all": [unary, streams, converse, failures, limits], "pauses": [pauses]}
with channel_to(*sys.argv[2:]) as channel:
    for part in PARTS[sys.argv[1]]:
        part(channel)
