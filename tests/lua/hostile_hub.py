"""A hub on 127.0.0.1 for hostile_hub_spec.lua that answers as no hub should, each time another way.

usage: hostile_hub.py PORT_FILE LOG   (the model org/sN gets the faults that the seed N draws, org/s0 none)
LOG gets a line per request: the path, and the faults of its answer.
"""
import hashlib
import json
import os
import random
import re
import socket
import sys
import threading
import time

port_file, log_file = sys.argv[1:]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}',
    "1.safetensors": b"first" * 5000,
    "2.safetensors": b"second",
}
NAMES = ["../evil", "../../../../evil", "/etc/evil", "/", ".", "..", "", "a/../../b", "a//b", "a\\..\\b", "c:evil",
         "a\0b", "a\nb", "\x1b[2J", "\x7f", "x" * 100000, "a/" * 150, "\u202eevil", "~/evil", "-rf", "$(evil)", "%2e%2e/evil",
         "blobs/../../evil", "config.json/evil", "config.json", ".evil", "evil\r", "\ud800", 7, -1, 1e300, None, True, [], {},
         ["../evil"], {"rfilename": "../evil"}]
VALUES = ["", " ", "0", "-1", "1", "99999999999999999999", "1e3", "0x10", "nan", "1.5", "\x00", "\x1b[31mred", "\xff\xfe",
          '"', '""', 'W/"', '"../../evil"', "../../evil", "a" * 40, "A" * 64, "g" * 40, "a" * 41, "%s%n%d", "x" * 90000,
          "bytes", "bytes 0-", "bytes -1-2/3", "bytes 99999999999999999999-5/6", "bytes */*", "gzip", "chunked", COMMIT,
          "file:///etc/passwd", "//evil", "/", "?", "#", "http://", "http://[::1", "https://localhost:1/", "javascript:0",
          "http://user:pass@localhost:1/x", "http://localhost:1/" + "y" * 5000, "ftp://localhost:1/", "relative/evil"]
FIELDS = ["ETag", "X-Linked-Etag", "X-Linked-Size", "Content-Length", "X-Repo-Commit", "Location", "Content-Range",
          "Content-Encoding", "Transfer-Encoding", "X-Error-Message", "Connection", "Set-Cookie", "Content-Type"]
STATUSES = ["100", "101", "199", "200", "201", "204", "206", "301", "302", "304", "307", "400", "404", "416", "451", "500", "599",
            "600", "999", "0", "-1", "2000", "abc", ""]


def etag_of(name, data):
    if name.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def listing(draw, faults):
    """The answer about the model, with wrong names among the right ones."""
    answer = {"sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
    kind = draw.randrange(9) if "list" in faults else -1
    if kind == 0:
        answer["siblings"] += [{"rfilename": draw.choice(NAMES)} for _ in range(20)]
    elif kind == 1:
        answer["siblings"] = draw.choice([None, {}, "x", 5, [1, "x", None, []], {"1": {"rfilename": "../evil"}}])
    elif kind == 2:
        answer["sha"] = draw.choice([None, 5, "", "../../evil", COMMIT[1:], COMMIT + "/", COMMIT.upper(), [], "x" * 40])
    elif kind == 3:
        return b"[" * 100000
    elif kind == 4:
        return b'{"a":' * 3000 + b"1" + b"}" * 3000
    elif kind == 5:
        answer["siblings"] += [{"rfilename": "m%d.gguf" % i} for i in range(20000)]
    elif kind == 6:
        answer["siblings"] = [{"rfilename": draw.choice(NAMES)} for _ in range(50)] + [{"rfilename": "m.gguf"}]
    text = json.dumps(answer).encode()
    if kind == 7:
        text = text[:draw.randrange(len(text))]
    elif kind == 8:
        text = bytearray(text)
        for _ in range(8):
            text[draw.randrange(len(text))] = draw.randrange(256)
    return bytes(text)


def index(draw):
    names = [draw.choice(NAMES + ["1.safetensors"]) for _ in range(draw.choice([1, 3, 40]))]
    answer = {"weight_map": {str(i): name for i, name in enumerate(names)}}
    return json.dumps(draw.choice([answer, answer, answer, [], {"weight_map": names}, {"weight_map": 5}])).encode()


def answer_to(method, path, asked):
    """Status, headers and body of the proper answer, spoilt by what the seed draws."""
    seed = int(re.search(r"org/s(\d+)", path).group(1))
    draw = random.Random(seed)
    stage = draw.choice(["list", "HEAD", "GET", "any"])
    faults = draw.sample(["list", "index", "status", "header", "field", "body", "many"], draw.choice([1, 1, 2])) if seed else []
    here = "list" if path.startswith("/api/") else method
    if seed and stage not in ("any", here):
        faults = [fault for fault in faults if fault in ("list", "index")]
    status, headers = "200", []
    if here == "list":
        body = listing(draw, faults)
    else:
        name = path.split("/resolve/" + COMMIT + "/", 1)[-1]
        body = FILES.get(name, b"GGUF")
        if "index" in faults and name.endswith(".index.json"):
            body = index(draw)
        headers = [("ETag", '"%s"' % etag_of(name, body)), ("X-Linked-Size", str(len(body))), ("X-Repo-Commit", COMMIT)]
        if name.endswith(".safetensors"):
            headers.append(("X-Linked-Etag", headers[0][1]))
    length = len(body)
    if "body" in faults:
        kind = draw.randrange(4)
        body = [body[:len(body) // 2], body + b"more", bytes(len(body)), b""][kind]
    if asked and here == "GET":
        start = min(int(asked), length)
        status, body, length = "206", body[start:], length - start
        headers.append(("Content-Range", "bytes %d-%d/%d" % (start, start + length - 1, start + length)))
    headers.append(("Content-Length", str(length)))
    if "status" in faults:
        status = draw.choice(STATUSES)
    if "field" in faults:
        for _ in range(draw.choice([1, 2, 5])):
            field = (draw.choice(FIELDS), draw.choice(VALUES))
            headers = [h for h in headers if h[0] != field[0] or draw.random() < 0.3] + [field]
    lines = ["HTTP/1.1 %s fine" % status] + ["%s: %s" % h for h in headers]
    if "header" in faults:
        wrong = [":", "no colon", ": no name", " folded", "X\0Y: z", "X" * 120000, "ETag:", "\x1b[2J: x", "Content-Length: 5, 6"]
        lines.insert(draw.choice([0, 1, len(lines)]), draw.choice(wrong))
    if "many" in faults:
        lines += ["X-%d: %d" % (i, i) for i in range(draw.choice([400, 600, 20000]))]
    text = "\r\n".join(lines) + "\r\n\r\n"
    return text.encode("latin-1", "replace") + (body if method != "HEAD" else b""), stage + " " + ",".join(faults)


def serve(client):
    with client:
        client.settimeout(20)
        request = b""
        while b"\r\n\r\n" not in request:
            got = client.recv(65536)
            if not got:
                return
            request += got
        method, path = request.split(b" ", 2)[:2]
        asked = re.search(rb"\r\n[Rr]ange: bytes=(\d+)-", request)
        answer, said = answer_to(method.decode(), path.decode("latin-1"), asked and asked.group(1))
        with open(log_file, "a") as log:
            log.write("%s %s\n" % (path.decode("latin-1"), said))
        client.sendall(answer)


def quietly(client):
    try:
        serve(client)
    except (OSError, AttributeError):
        pass


def end_some_day():
    time.sleep(600)
    os._exit(1)


threading.Thread(target=end_some_day, daemon=True).start()
server = socket.create_server(("127.0.0.1", 0), backlog=64)
with open(port_file + ".tmp", "w") as out:
    out.write(str(server.getsockname()[1]))
os.rename(port_file + ".tmp", port_file)
while True:
    threading.Thread(target=quietly, args=(server.accept()[0],), daemon=True).start()
