#!/usr/bin/env python3
"""Writes tests/data/default_reference.json: what a plain float64 GPT-2 makes of models/default.gguf.

Nothing here is the engine's: the file is read by GGUF's published layout, tokens are made by merging
pairs in the order of the file's list, and the pass is written from Radford et al. 2019 in numpy.

    tests/checks/default_reference.py models/default.gguf > tests/data/default_reference.json
"""
import base64
import json
import math
import re
import struct
import sys

import numpy as np

PROMPTS = ["Once upon a time", "The king said to his daughter", "\"Oh dear!\" said the little mouse,",
           "There was once a poor woodcutter who lived at the edge of a great forest", "It was the first day of spring"]
N_GREEDY = 40


class Reader:
    FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, kind):
        fmt = "<" + self.FORMATS[kind]
        value, = struct.unpack_from(fmt, self.data, self.at)
        self.at += struct.calcsize(fmt)
        return value

    def text(self):
        size = self.number(10)
        self.at += size
        return self.data[self.at - size:self.at].decode("utf-8")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            element, n = self.number(4), self.number(10)
            return [self.value(element) for _ in range(n)]
        return self.number(kind)


def decode(kind, raw, n):
    """The elements of a tensor as float64: F32, F16 or Q8_0 (a float16 scale, then 32 int8)."""
    if kind == 0:
        return np.frombuffer(raw, "<f4", n).astype(np.float64)
    if kind == 1:
        return np.frombuffer(raw, "<f2", n).astype(np.float64)
    if kind != 8:
        sys.exit("type %d of GGUF is not read here" % kind)
    blocks = np.frombuffer(raw, np.dtype([("d", "<f2"), ("q", "i1", 32)]), n // 32)
    return (blocks["d"].astype(np.float64)[:, None] * blocks["q"]).reshape(-1)


def read_gguf(path):
    r = Reader(open(path, "rb").read())
    assert r.data[:4] == b"GGUF"
    r.at = 8
    n_tensors, n_values = r.number(10), r.number(10)
    meta, infos, tensors = {}, [], {}
    for _ in range(n_values):
        key = r.text()
        meta[key] = r.value(r.number(4))
    for _ in range(n_tensors):
        name, n_dims = r.text(), r.number(4)
        dims = [r.number(10) for _ in range(n_dims)]
        infos.append((name, dims[::-1], r.number(4), r.number(10)))
    start = -(-r.at // 32) * 32
    for name, shape, kind, offset in infos:
        tensors[name] = decode(kind, memoryview(r.data)[start + offset:], math.prod(shape)).reshape(shape)
    return meta, tensors


# GPT-2's split into words, for texts in ASCII.
WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def encode(meta, text):
    ids = {piece: i for i, piece in enumerate(meta["tokenizer.ggml.tokens"])}
    rank = {tuple(merge.split(" ")): i for i, merge in enumerate(meta["tokenizer.ggml.merges"])}
    out = []
    for word in WORDS.findall(text):
        parts = list(word.replace(" ", "\u0120"))
        while True:
            pairs = [(rank.get(pair, math.inf), i) for i, pair in enumerate(zip(parts, parts[1:]))]
            best, i = min(pairs, default=(math.inf, 0))
            if best == math.inf:
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        out += [ids[part] for part in parts]
    return out


def norm(x, t, name, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * t[name + ".weight"] + t[name + ".bias"]


def forward(meta, t, ids):
    """Logits of every position, and activations by name."""
    arch, seen = meta["general.architecture"], {}
    n_heads, eps = meta[arch + ".attention.head_count"], meta[arch + ".attention.layer_norm_epsilon"]
    n, d = len(ids), t["token_embd.weight"].shape[1]
    x = t["token_embd.weight"][ids] + t["position_embd.weight"][:n]
    for layer in range(meta[arch + ".block_count"]):
        def linear(y, name):
            return y @ t["blk.%d.%s.weight" % (layer, name)].T + t["blk.%d.%s.bias" % (layer, name)]
        seen["resid_pre.%d" % layer] = x
        y = norm(x, t, "blk.%d.attn_norm" % layer, eps)
        if "blk.%d.attn_qkv.weight" % layer in t:
            q, k, v = np.split(linear(y, "attn_qkv"), 3, -1)
        else:
            q, k, v = (linear(y, name) for name in ("attn_q", "attn_k", "attn_v"))
        q, k, v = (m.reshape(n, n_heads, -1).transpose(1, 0, 2) for m in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(d // n_heads)
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        seen["attn.%d" % layer] = pattern
        x = x + linear((pattern @ v).transpose(1, 0, 2).reshape(n, d), "attn_output")
        seen["resid_mid.%d" % layer] = x
        h = linear(norm(x, t, "blk.%d.ffn_norm" % layer, eps), "ffn_up")
        h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h ** 3)))
        x = x + linear(h, "ffn_down")
        seen["resid_post.%d" % layer] = x
    x = norm(x, t, "output_norm", eps)
    seen["ln_f"] = x
    return x @ t["output.weight" if "output.weight" in t else "token_embd.weight"].T, seen


def stored(x):
    return {"shape": list(x.shape), "base64": base64.b64encode(x.astype("<f4").tobytes()).decode()}


def losses(logits, ids):
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return [-log_probs[i, ids[i + 1]] for i in range(len(ids) - 1)]


def greedy(meta, t, ids):
    """Ids of the likeliest tokens, and the least lead of a first choice over the second."""
    ids, out, lead = list(ids), [], math.inf
    for _ in range(N_GREEDY):
        last = forward(meta, t, ids)[0][-1]
        second, first = np.sort(last)[-2:]
        lead = min(lead, first - second)
        out.append(int(last.argmax()))
        ids.append(out[-1])
    return out, lead


def main():
    meta, t = read_gguf(sys.argv[1])
    prompts, least = [], math.inf
    for i, text in enumerate(PROMPTS):
        ids = encode(meta, text)
        logits, seen = forward(meta, t, ids)
        out, lead = greedy(meta, t, ids)
        least = min(least, lead)
        entry = {"prompt": text, "ids": ids, "greedy_ids": out, "token_nll": losses(logits, ids)}
        if i == 0:
            entry["logits"] = stored(logits)
            entry["activations"] = {name: stored(x) for name, x in seen.items()}
        else:
            entry["last_logits"] = stored(logits[-1])
        prompts.append(entry)
    about = ("Computed in float64 by tests/checks/default_reference.py from models/default.gguf; stored as float32. "
             "First and second choice of the greedy tokens are never closer than %.4f." % least)
    json.dump({"about": about, "prompts": prompts}, sys.stdout, indent=1)
    print()


main()
