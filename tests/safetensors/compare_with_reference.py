"""Compares SafetensorsFile with the reference reader on damaged files.

  compare_with_reference.py READ_SAFETENSORS [--files N] [--seed N]

READ_SAFETENSORS is the program built from read_safetensors.cc. What ours accepts
the reference must accept, with the same names, dtypes, shapes, bytes and
metadata; ours may refuse more. Prints the causes of that, and ends with status 1
if ours is laxer or reads something else. Needs the safetensors package.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

import safetensors

DTYPES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2,
          "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8,
          "U64": 8, "F64": 8}
NUMBERS = [0, 1, 2, 3, 7, 8, -1, 1.0, 1.5, 1e0, 2**31, 2**32, 2**53, 2**63 - 1,
           2**63, 2**64 - 1, 2**64, None, True, "1", [], {}, [1]]
PIECES = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"-", b".", b"0", b"1",
          b"e9", b"null", b"true", b"\\u0000", b"\\ud800", b"\xff", b"\0",
          b"\xc0\x80", b"{}", b"[]", b'""', b" ", b"\n", b"\t", b"\xef\xbb\xbf",
          b"//", b"F32", b"__metadata__", b"shape", b'"x":1,', b"-0"]


def valid_header(rng):
    header = {}
    offset = 0
    if rng.random() < 0.5:
        header["__metadata__"] = {f"k{i}": "v\u00e9" for i in range(2)}
    for i in range(rng.randint(0, 4)):
        dtype = rng.choice(list(DTYPES))
        shape = [rng.choice([0, 1, 2, 3]) for _ in range(rng.randint(0, 3))]
        size = DTYPES[dtype]
        for dimension in shape:
            size *= dimension
        header[f"t{i}\u00e9"] = {"dtype": dtype, "shape": shape,
                                 "data_offsets": [offset, offset + size]}
        offset += size
    return header, offset


def damage_header(header, rng):
    """Changes one value in the parsed header, in place."""
    names = [name for name in header if name != "__metadata__"]
    if not names or rng.random() < 0.1:
        header["__metadata__"] = rng.choice([{}, {"a": "b"}, {"a": 1}, None, "x",
                                             {"a": None}, {"a\0": ""}])
        return
    entry = header[rng.choice(names)]
    field = rng.choice(["dtype", "shape", "data_offsets", "extra", "delete"])
    if field == "dtype":
        entry["dtype"] = rng.choice(
            ["F4", "C64", "F8_E8M0", "f32", "", None, 1, *DTYPES])
    elif field == "extra":
        entry["x"] = rng.choice([1, None, [], [[1]], [[[1]]], {"a": {}}, "\0"])
    elif field == "delete":
        entry.pop(rng.choice(["dtype", "shape", "data_offsets"]), None)
    elif entry.get(field) and rng.random() < 0.8:
        position = rng.randrange(len(entry[field]))
        value = entry[field][position]
        near = [value + 1, value - 1] if isinstance(value, int) else []
        entry[field][position] = rng.choice(NUMBERS + near)
    else:
        entry[field] = rng.choice([[], [0], [0, 0], [0, 0, 0], None, 0,
                                   [2**32, 2**32], [0, 2**62, 4], [2**62, 4, 0]])


def damage_text(text, rng):
    at = rng.randint(0, len(text))
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + rng.choice(PIECES) + text[at:]
    if kind == 1:
        return text[:at] + text[at + rng.randint(1, 8):]
    if kind == 2:
        piece = rng.choice(PIECES)
        return text[:at] + piece + text[at + len(piece):]
    other = rng.randint(0, len(text))
    return text[:at] + text[other:other + rng.randint(1, 80)] + text[at:]


def make_file(rng):
    header, size = valid_header(rng)
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        damage_header(header, rng)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass")
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        text = damage_text(text, rng)
    text += rng.choice([b"", b"", b" " * rng.randint(0, 9), b"\n", b"\0"])
    text = rng.choice([b"", b"", b"", b"", b" "]) + text
    length = len(text) + rng.choice([0] * 30 + [1, -1, 2**63])
    size = max(0, size + rng.choice([0] * 10 + [1, -1]))
    return (struct.pack("<Q", max(0, length)) + text +
            bytes(rng.randrange(256) for _ in range(size)))


def fnv1a(data):
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


def reference_line(path):
    """The same line as read_safetensors.cc prints, None if refused."""
    try:
        tensors = safetensors.deserialize(path.read_bytes())
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, ValueError, OverflowError):
        return None
    parts = ["ok"]
    for name, tensor in sorted(tensors, key=lambda item: item[0].encode()):
        shape = ",".join(str(dimension) for dimension in tensor["shape"])
        parts.append(f"{name.encode().hex()}:{tensor['dtype']}:{shape}:"
                     f"{fnv1a(tensor['data'])}")
    for key in sorted(metadata, key=str.encode):
        parts.append(f"{key.encode().hex()}={metadata[key].encode().hex()}")
    return " ".join(parts)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--files", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    counts = collections.Counter()
    stricter = collections.Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as temporary:
        paths = []
        for i in range(arguments.files):
            path = pathlib.Path(temporary) / f"{i}.safetensors"
            path.write_bytes(make_file(rng))
            paths.append(path)
        result = subprocess.run(
            [arguments.program], input="\n".join(map(str, paths)).encode(),
            check=True, stdout=subprocess.PIPE)
        lines = result.stdout.decode().split("\n")[:-1]
        assert len(lines) == len(paths)
        for path, line in zip(paths, lines):
            expected = reference_line(path)
            if line.startswith("refused"):
                counts["refused by both" if expected is None
                       else "refused by ours"] += 1
                if expected is not None:
                    cause = re.sub(r'tensor ".*?": ', "", line)
                    cause = cause.split(": ", 1)[1].split(";")[0]
                    stricter[re.sub(r"\d+", "N", cause)] += 1
                continue
            counts["accepted by both" if line == expected else "FAULT"] += 1
            if line != expected:
                faults += 1
                print(f"{path.read_bytes()!r}\n  ours {line}\n"
                      f"  reference {expected}")
    print(dict(counts))
    for cause, count in stricter.most_common():
        print(f"  stricter: {count} {cause}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
