#!/usr/bin/env python3
"""Python's own HTTP server with HTTP/1.1: PORT and a directory with page.txt."""
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path != "/chunked":
            super().do_GET()
            return
        with open(f"{self.directory}/page.txt", "rb") as file:
            page = file.read()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in [page[:1000], page[1000:], b""]:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or self.chunks()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


directory = sys.argv[2]
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), partial(Handler, directory=directory))
server.serve_forever()
