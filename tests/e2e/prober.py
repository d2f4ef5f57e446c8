"""A client in the cluster that asks the deployed model all the time, each time over a new connection, and forgets
nothing: how often, what failed, which locks answered.

    GET /          {"asked": …, "failures": [{"time", "what"}], "locks": {lock: times}, "slowest_ms": …}
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

URL = os.environ["URL"]
PAUSE = 0.1  # seconds between two questions

seen: dict = {"asked": 0, "failures": [], "locks": {}, "slowest_ms": 0.0}


def ask() -> None:
    body, shape = None, None
    while True:
        begun = time.time()
        try:
            if body is None:
                with urllib.request.urlopen(URL, timeout=5) as answer:
                    tensor = json.load(answer)["inputs"][0]
                shape = [1, tensor["shape"][-1]]
                row = {"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": [0] * shape[1]}
                body = json.dumps({"inputs": [row]}).encode()
            headers = {"Content-Type": "application/json", "Connection": "close"}
            with urllib.request.urlopen(urllib.request.Request(f"{URL}/infer", body, headers), timeout=5) as answer:
                lock = json.load(answer)["parameters"]["lock"]
            seen["locks"][lock] = seen["locks"].get(lock, 0) + 1
        except (OSError, ValueError, KeyError) as error:
            seen["failures"].append({"time": begun, "what": f"{type(error).__name__}: {error}"})
        seen["asked"] += 1
        seen["slowest_ms"] = max(seen["slowest_ms"], round((time.time() - begun) * 1000, 1))
        time.sleep(PAUSE)


class Told(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, form: str, *args: object) -> None:
        pass


threading.Thread(target=ask, daemon=True).start()
ThreadingHTTPServer(("", 8080), Told).serve_forever()
