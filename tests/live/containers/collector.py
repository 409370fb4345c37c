"""An OTLP collector, run in a container of the stack: prints the text that is in what it gets."""

import re
from http.server import BaseHTTPRequestHandler, HTTPServer


class Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(*re.findall(rb"[ -~]{4,}", body), sep="\n", flush=True)  # noqa: T201
        self.send_response(200)
        self.end_headers()


HTTPServer(("", 4318), Collector).serve_forever()
