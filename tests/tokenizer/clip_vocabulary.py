"""Writes CLIP's vocab.json and merges.txt, 49,408 entries, into a folder.

  clip_vocabulary.py FOLDER

The merges come from the open_clip_torch package, which carries OpenAI's file
(about 1.5 MB, downloaded with pip unless pip has it); the vocabulary is made
from them as in OpenAI's simple_tokenizer.py.
"""

import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "open_clip_torch==3.3.0"
MERGES = "open_clip/bpe_simple_vocab_16e6.txt.gz"
NUM_MERGES = 49152 - 256 - 2


def byte_alphabet() -> list[str]:
    """GPT-2's characters for bytes, in the order of CLIP's vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(c) for c in printable + list(range(256, 256 + others))]


def read_merges() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--dest", folder, PACKAGE], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            text = gzip.decompress(archive.read(MERGES)).decode()
    return text.split("\n")[1:NUM_MERGES + 1]


def write(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    merges = read_merges()
    tokens = byte_alphabet()
    tokens += [token + "</w>" for token in tokens]
    tokens += ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    assert len(vocabulary) == 49408
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(merge + "\n" for merge in merges),
        encoding="utf-8")


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
