"""A hub on 127.0.0.1 for pull_spec.lua, with faults: each model's name says which.

usage: hub_server.py ROOT PORT_FILE LOG [CERTIFICATE]   (ROOT/ORG/NAME/FILE...; *.gguf and *.safetensors are
LFS files). CERTIFICATE holds a key too: then it speaks HTTPS.
LOG gets a line per request: METHOD, Host, path, whether a token came, Range.
"""
import hashlib
import http.server
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse

root, port_file, log_file = sys.argv[1:4]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
seen = {}


def etag_of(name, data):
    if name.endswith((".gguf", ".safetensors")):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def count(self, what):
        seen[what] = seen.get(what, 0) + 1
        return seen[what]

    def answer(self, status, headers=(), body=b"", length=None):
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if length not in (None, len(body)) and self.command != "HEAD":
            self.wfile.flush()
            self.close_connection = True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        with open(log_file, "a") as log:
            log.write("%s %s %s %s %s\n" % (
                self.command, self.headers["Host"].split(":")[0], self.path,
                self.headers.get("Authorization", "-").replace(" ", ":"), self.headers.get("Range", "-")))
        parts = urllib.parse.unquote(self.path).lstrip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.model("/".join(parts[2:4]), parts[3])
        if parts[0] == "elsewhere":
            return self.file("/".join(parts[1:3]), parts[2], "/".join(parts[3:]), True)
        return self.file("/".join(parts[0:2]), parts[1], "/".join(parts[4:]), False)

    def model(self, model, fault):
        if fault in ("e401", "e403", "e404"):
            return self.answer(int(fault[1:]), [("X-Error-Message", "said\x1b[31m so")])
        if fault == "e500" or fault == "passing" and self.count(fault) <= 2:
            return self.answer(500)
        if fault == "e429":
            return self.answer(429)
        if fault == "nonsense":
            return self.answer(200, body=b"<html>")
        folder = os.path.join(root, model)
        if not os.path.isdir(folder):
            return self.answer(404)
        names = sorted(os.path.relpath(os.path.join(at, name), folder)
                       for at, _, files in os.walk(folder) for name in files)
        if fault == "names":
            names += ["../../evil.gguf", "/etc/evil", "a\u0000b", "a\nb", "x/../y", "", "con\\..\\z"]
        self.answer(200, body=json.dumps({"sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}).encode())

    def file(self, model, fault, name, elsewhere):
        try:
            with open(os.path.join(root, model, name), "rb") as file:
                data = file.read()
        except OSError:
            return self.answer(404)
        lfs = name.endswith((".gguf", ".safetensors"))
        etag, size = etag_of(name, data), len(data)
        if fault == "etag":
            etag = "../../../evil"
        claimed = {"more": size - 5, "less": size + 5, "huge": 1 << 50}.get(fault, size) if lfs else size
        headers = [("X-Repo-Commit", COMMIT), ("ETag", '"%s"' % etag)]
        if lfs:
            headers += [("X-Linked-Etag", '"%s"' % etag), ("X-Linked-Size", str(claimed))]
        if fault in ("moved", "loop") and not elsewhere or fault == "loop":
            port = self.server.server_address[1]
            where = "http://localhost:%d/elsewhere/%s/%s" % (port, model, name)
            if fault == "moved" or lfs:
                return self.answer(302, headers + [("Location", where)], b"moved")
        if elsewhere:
            headers = []
        if fault == "file" and self.command == "GET":
            return self.answer(302, headers + [("Location", "file:///etc/passwd")])
        if self.command == "HEAD":
            return self.answer(200, headers, length=size)
        if fault == "wrong" and lfs:
            data = bytes(len(data))
        start = 0
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and fault != "norange":
            start = int(asked[6:].rstrip("-"))
            if start >= size:
                return self.answer(416)
            first = start + 1 if fault == "shift" else start
            headers.append(("Content-Range", "bytes %d-%d/%d" % (first, size - 1, size)))
        rest = data[start:]
        cut = fault == "always" and lfs
        cut = cut or fault in ("drops", "norange", "shift") and lfs and self.count(model + name) <= 3
        if fault == "slow" and lfs and self.count(model) == 1:
            self.answer(200, headers, rest[:len(rest) // 2], len(rest))
            return time.sleep(20)
        body = rest[:len(rest) // 2 if fault != "always" else 0] if cut else rest
        self.answer(206 if start else 200, headers, body, len(rest))


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
timer = threading.Timer(300, lambda: os._exit(1))  # should nobody stop it
timer.daemon = True
timer.start()
with open(port_file + ".tmp", "w") as out:
    out.write(str(server.server_address[1]))
os.rename(port_file + ".tmp", port_file)
server.serve_forever()
