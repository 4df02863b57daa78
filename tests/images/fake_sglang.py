"""What the stand-in for an SGLang image has as sglang.launch_server: enough for pd-worker to call it ready.

Run by the stand-in's own python3, so the standard library is all it has.
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = {
    "/health": {},
    "/get_load": {"load": 0},
    "/server_info": {"version": "0.5.23", "interpreter": sys.executable, "path": sys.path},
    "/generate": {"text": "x", "meta_info": {"finish_reason": {"type": "length"}}},
}


class Handler(BaseHTTPRequestHandler):
    """Answers what it knows, 404 else."""

    def do_GET(self) -> None:
        body = json.dumps(ANSWERS.get(self.path, {})).encode()
        self.send_response(200 if self.path in ANSWERS else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()


def main() -> None:
    """Serves where its flags say, until it is ended."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    given, _ = parser.parse_known_args()
    with ThreadingHTTPServer((given.host, given.port), Handler) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
