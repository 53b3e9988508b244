"""Compares ClipTokenizer with transformers.CLIPTokenizer, token for token.

  compare_with_reference.py TOKENIZE_LINES [--vocabulary FOLDER]
      [--random N] [--seed N]

TOKENIZE_LINES is the program built from tokenize_lines.cc. Texts: every Unicode
code point in several contexts, then random ones. Configurations: the ways in
which published models write their tokens. Needs transformers; the vocabulary is
CLIP's own, see clip_vocabulary.py, unless FOLDER has a vocab.json and a
merges.txt. Prints the first differences and ends with status 1 if there are any.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from transformers import CLIPTokenizer

import clip_vocabulary

START = "<|startoftext|>"
END = "<|endoftext|>"

# One code point each. Marks of high and low combining class, and what composes
# with them, show the order and composition of the normalisation.
CONTEXTS = ["%s", "a%sb", " %s ", "!%s!", "1%s1", "%s%s", "'%s", "a\u0345%sb",
            "a%s\u0301", "a\u0316%s\u0345", "e%s\u0323\u0302", "\u1100%s",
            "%s\u0338\u0308"]

ALPHABETS = [
    [chr(c) for c in range(0x20, 0x7F)],
    [chr(c) for c in range(0xA0, 0x250)],
    [chr(c) for c in range(0x370, 0x530)],
    [chr(c) for c in range(0x590, 0x700)],
    [chr(c) for c in range(0x900, 0xD80)],
    [chr(c) for c in range(0x1100, 0x1200)],
    [chr(c) for c in range(0x1E00, 0x2000)],
    [chr(c) for c in range(0x3040, 0x3100)] + list("漢字假名"),
    [chr(c) for c in range(0xAC00, 0xD7A4, 37)],
    [chr(c) for c in range(0x300, 0x370)] + list("aeiouAEIOU"),
    list("\t\n\v\f\r \x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff"),
    ["👩", "👨", "\u200d", "🏽", "❤", "\ufe0f", "🇩", "🇪", "😀", "⃣"],
    ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'", "’s"],
    [START, END, "<|STARTOFTEXT|>", "<|EndOfText|>", "<|", "|>", "<|endoftex",
     "startoftext", "</w>", "!", "<cat-toy>", "<CAT-TOY>"],
    ["the ", "a photo of ", "Cat", "DOG ", "masterpiece, ", "(best:1.2)",
     "8k ", "100%", "don't", "O'Neill's"],
    [chr(c) for c in range(0x20)],
]


def token(content, normalized, **more):
    return {"content": content, "lstrip": False, "normalized": normalized,
            "rstrip": False, "single_word": False, **more}


def old_style():
    """Stable Diffusion 1.x."""
    typed = {"__type": "AddedToken"}
    start, end = token(START, True), token(END, True)
    return {
        "tokenizer_config.json": {
            "add_prefix_space": False, "bos_token": start | typed,
            "eos_token": end | typed, "unk_token": end | typed,
            "pad_token": END, "do_lower_case": True, "errors": "replace",
            "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"},
        "special_tokens_map.json": {"bos_token": start, "eos_token": end,
                                    "pad_token": END, "unk_token": end}}


def new_style(pad, start_normalized):
    """The encoders of SDXL; with pad "!", also Stable Diffusion 2.x."""
    listed = {"49406": token(START, start_normalized, special=True),
              "49407": token(END, True, special=True)}
    if pad == "!":
        listed["0"] = token("!", False, special=True)
    return {"tokenizer_config.json": {
        "added_tokens_decoder": listed, "bos_token": START, "eos_token": END,
        "unk_token": END, "pad_token": pad, "model_max_length": 77}}


def plain(pad=END):
    return {"tokenizer_config.json": {"pad_token": pad, "model_max_length": 77}}


def textual_inversion():
    return {"tokenizer_config.json": {"model_max_length": 77},
            "special_tokens_map.json": {"bos_token": token(START, False),
                                        "eos_token": token(END, True)},
            "added_tokens.json": {"<cat-toy>": 49408, "Sks  Dog": 49409}}


def extra_tokens():
    return {"tokenizer_config.json": {
        "model_max_length": 77, "extra_special_tokens": ["<cat-toy>", "8k"]}}


CONFIGURATIONS = {
    "old style": old_style(),
    "new style": new_style(END, True),
    "padded with !": new_style("!", False),
    "plain": plain(),
    "plain, padded with !": plain("!"),
    "textual inversion": textual_inversion(),
    "extra tokens": extra_tokens(),
}


def code_point_texts(contexts):
    for context in contexts:
        for c in range(0x110000):
            if not 0xD800 <= c <= 0xDFFF:
                yield context.replace("%s", chr(c))


def random_texts(count, rng):
    for _ in range(count):
        text = ""
        for _ in range(rng.randint(1, 6)):
            alphabet = rng.choice(ALPHABETS)
            length = rng.choice([1, 1, 2, 3, 8, 30])
            text += "".join(rng.choices(alphabet, k=length))
            text += rng.choice(["", "", " ", chr(rng.randrange(0xD800))])
        yield text


def long_texts():
    return ["a" * 10000, "!" * 10000, "é" * 5000, " " * 10000 + "x",
            "漢" * 3000, "ab" * 5000, "a\u0301\u0316" * 3000, "1" * 5000,
            "'s" * 4000, START * 500, "👩\u200d" * 2000, "\0" * 1000]


def our_ids(program, folder, texts):
    encoded = [text.encode() for text in texts]
    data = b"".join(b"%d\n%s" % (len(text), text) for text in encoded)
    result = subprocess.run([program, folder], input=data, check=True,
                            stdout=subprocess.PIPE)
    return [[int(n) for n in line.split()]
            for line in result.stdout.decode().split("\n")[:-1]]


def compare(program, folder, texts):
    """Prints the first differences; returns their number."""
    reference = CLIPTokenizer.from_pretrained(folder)
    differences = 0
    for start in range(0, len(texts), 100000):
        part = texts[start:start + 100000]
        expected = reference.backend_tokenizer.encode_batch(
            part, add_special_tokens=False)
        actual = our_ids(program, folder, part)
        assert len(actual) == len(part)
        for text, want, got in zip(part, expected, actual):
            if want.ids != got:
                differences += 1
                if differences <= 20:
                    print(f"  {text!a}: reference {want.ids[:40]}, "
                          f"ours {got[:40]}")
    return differences


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--vocabulary", type=pathlib.Path)
    parser.add_argument("--random", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if arguments.vocabulary:
            for name in ["vocab.json", "merges.txt"]:
                (folder / name).write_bytes(
                    (arguments.vocabulary / name).read_bytes())
        else:
            clip_vocabulary.write(folder)
        for number, (name, files) in enumerate(CONFIGURATIONS.items()):
            for file, content in files.items():
                (folder / file).write_text(json.dumps(content))
            rng = random.Random(arguments.seed + number)
            texts = list(random_texts(arguments.random, rng)) + long_texts()
            # Code points do not depend on the configuration: once, and a pass
            # of single ones for the others.
            texts += code_point_texts(CONTEXTS if number == 0 else CONTEXTS[:1])
            differences = compare(arguments.program, folder, texts)
            print(f"{name}: {differences} of {len(texts)} texts differ",
                  flush=True)
            failed = failed or differences > 0
            for file in files:
                (folder / file).unlink()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
