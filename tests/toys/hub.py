"""A stand-in of the hub's API on this machine: it knows repositories and takes commits of small files."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories by name, each with its files; `calls` are the requests in their order."""

    def __init__(self, repositories=()):
        self.repositories = {name: {} for name in repositories}
        self.private = {}
        self.calls = []


@contextlib.contextmanager
def hub_on_this_machine(hub):
    """The address of a server with the state of `hub`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            hub.calls.append(f"GET {self.path}")
            name = "/".join(self.path.partition("?")[0].removeprefix("/api/models/").split("/")[:2])
            if name in hub.repositories:
                self.answer({"id": name, "private": False, "sha": "0" * 40, "siblings": [], "tags": []})
            else:
                self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        def do_POST(self):
            hub.calls.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.path == "/api/repos/create":
                request = json.loads(body)
                name = "/".join(filter(None, (request.get("organization"), request["name"])))
                hub.repositories.setdefault(name, {})
                hub.private[name] = request.get("visibility") == "private" or request.get("private", False)
                self.answer({"url": f"{address}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            else:
                self.commit(body)

        def commit(self, body):
            name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            oid = "1" * 40
            self.answer({"commitUrl": f"{address}/{name}/commit/{oid}", "commitOid": oid, "success": True})

        def answer(self, content, status=200, headers=None):
            text = json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
