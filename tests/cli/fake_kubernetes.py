"""The Kubernetes API's Secrets and Namespaces, in the test's own process: get, and server-side apply with its owners.

What it answers has been compared with a real API server (v1.36).
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Api:
    """`secrets` by (namespace, name): type, labels, data (plain text), and key → the manager that applied it last."""

    def __init__(self, *namespaces):
        self.namespaces = set(namespaces)
        self.secrets = {}
        self.writes = []  # the path of each
        self.break_after = None  # how many writes are answered; the next one is done, and its connection lost
        self.refuse = None  # (status, message) for every write
        self.tokens = []  # Authorization of each request
        self.lock = threading.Lock()

    def put(self, namespace, name, manager="kubectl", kind="Opaque", **data):
        """What somebody else made."""
        self.namespaces.add(namespace)
        owners = dict.fromkeys(data, manager)
        self.secrets[namespace, name] = {"type": kind, "labels": {}, "data": data, "owners": owners}

    def data(self, namespace, name):
        return self.secrets[namespace, name]["data"]

    def values(self, name):
        """Namespace → data of each Secret of this name."""
        return {namespace: body["data"] for (namespace, n), body in self.secrets.items() if n == name}

    def apply(self, namespace, name, body, manager):
        """(status, message); the caller forces, so conflicts end with the new value."""
        if namespace not in self.namespaces:
            return 404, f'namespaces "{namespace}" not found'
        kind = body.get("type", "Opaque")
        old = self.secrets.setdefault((namespace, name), {"type": kind, "labels": {}, "data": {}, "owners": {}})
        if "type" in body and old["type"] != kind:
            return 422, f'Secret "{name}" is invalid: type: Invalid value: "{kind}": field is immutable'
        data = {key: base64.b64decode(value).decode() for key, value in body["data"].items()}
        for key in [key for key, owner in old["owners"].items() if owner == manager and key not in data]:
            del old["data"][key], old["owners"][key]
        old["labels"] |= body["metadata"].get("labels", {})
        old["data"] |= data
        old["owners"] |= dict.fromkeys(data, manager)
        return 200, ""


@contextmanager
def serve(api, tls=None):
    """The server's address. With `tls`, a file with certificate and key, by https, to who shows that certificate."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body):
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        def told(self, status, message):
            self.answer(status, {"kind": "Status", "status": "Failure", "message": message, "code": status})

        def named(self):
            """(namespace, Secret); the Secret is empty for a namespace."""
            parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[4:]]
            return parts[0], parts[2] if len(parts) == 3 else ""

        def do_GET(self):
            api.tokens.append(self.headers.get("Authorization", ""))
            namespace, name = self.named()
            if name and (namespace, name) in api.secrets:
                found = api.secrets[namespace, name]
                data = {key: base64.b64encode(text.encode()).decode() for key, text in found["data"].items()}
                meta = {"name": name, **({"labels": found["labels"]} if found["labels"] else {})}
                body = {"kind": "Secret", "metadata": meta, "type": found["type"]}
                self.answer(200, {**body, **({"data": data} if data else {})})
            elif not name and namespace in api.namespaces:
                self.answer(200, {"kind": "Namespace", "metadata": {"name": namespace}})
            else:
                self.told(404, f'"{name or namespace}" not found')

        def do_PATCH(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            query = parse_qs(urlsplit(self.path).query)
            assert self.headers["Content-Type"] == "application/apply-patch+yaml"
            assert query["force"] == ["true"]
            with api.lock:
                if api.refuse:
                    return self.told(*api.refuse)
                namespace, name = self.named()
                status, message = 200, ""
                if name:
                    status, message = api.apply(namespace, name, body, query["fieldManager"][0])
                else:
                    api.namespaces.add(namespace)
                api.writes.append(urlsplit(self.path).path)
                if api.break_after is not None and len(api.writes) > api.break_after:
                    self.close_connection = True
                    return None
            return self.told(status, message) if message else self.answer(status, body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        context.load_verify_locations(tls)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
