#!/usr/bin/env python3
"""A gRPC service without a schema, on a port of loopback: its messages are bytes."""
import sys
import threading
from concurrent import futures

import grpc


def unary(request, context):
    context.send_initial_metadata((("x-initial", "first"), ("x-bytes-bin", b"\x00\xff")))
    context.set_trailing_metadata((("x-trailer", "last"),))
    return request


def stream(request, _context):
    for number in range(int(request)):
        yield b"%d" % number


def collect(requests, _context):
    return b"".join(requests)


def converse(requests, _context):
    yield from requests


def fail(_request, context):
    context.set_trailing_metadata((("x-trailer", "last"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: grün")


def fail_late(_request, context):
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")


def hang(_request, context):
    gone = threading.Event()
    context.add_callback(gone.set)
    limit = context.time_remaining()
    print("hangs", "without limit" if limit is None or limit > 1e6 else "with limit", flush=True)
    try:
        yield b"hanging"
        gone.wait(60)
    finally:
        # Whoever cancels at once ends this at the yield.
        print("let go", flush=True)


service = grpc.method_handlers_generic_handler(
    "test.Echo",
    {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Converse": grpc.stream_stream_rpc_method_handler(converse),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Hang": grpc.unary_stream_rpc_method_handler(hang),
    },
)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((service,))
assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}"), "the port is taken"
server.start()
server.wait_for_termination()
