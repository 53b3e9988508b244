"""Makes the tokenizer's files: a vocabulary built exactly like CLIP's, only small.

256 byte symbols, the same 256 with `</w>`, one symbol per merge, `<|startoftext|>` and `<|endoftext|>` last. Merges
are learnt until every word of the prompts is one token; any other text still goes through, in smaller pieces.

    python vocabulary.py FOLDER
"""

import json
import os
import sys
from collections import Counter

import scenes

LENGTH = 32  # tokens of a prompt, padded with <|endoftext|>


def byte_symbols():
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    symbols = list(printable)
    extra = 0
    for byte in range(256):
        if byte not in printable:
            printable.append(byte)
            symbols.append(256 + extra)
            extra += 1
    return [chr(s) for s in symbols]


def learn_merges(words):
    pieces = {w: list(w[:-1]) + [w[-1] + "</w>"] for w in words}
    merges = []
    while any(len(p) > 1 for p in pieces.values()):
        counts = Counter(pair for p in pieces.values() for pair in zip(p, p[1:]))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for word, old in pieces.items():
            new, i = [], 0
            while i < len(old):
                if tuple(old[i:i + 2]) == best:
                    new.append(old[i] + old[i + 1])
                    i += 2
                else:
                    new.append(old[i])
                    i += 1
            pieces[word] = new
    return merges


def write(folder):
    os.makedirs(folder, exist_ok=True)
    merges = learn_merges(scenes.words())
    symbols = byte_symbols()
    entries = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges]
    entries = list(dict.fromkeys(entries)) + ["<|startoftext|>", "<|endoftext|>"]

    def dump(name, value, **options):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, **options)
            f.write("\n")

    dump("vocab.json", {token: i for i, token in enumerate(entries)})
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))

    def special(text):
        return {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    dump("special_tokens_map.json", {
        "bos_token": special("<|startoftext|>"), "eos_token": special("<|endoftext|>"),
        "unk_token": special("<|endoftext|>"), "pad_token": "<|endoftext|>"}, indent=2)
    dump("tokenizer_config.json", {
        "add_prefix_space": False, "bos_token": "<|startoftext|>", "do_lower_case": True,
        "eos_token": "<|endoftext|>", "errors": "replace", "model_max_length": LENGTH, "pad_token": "<|endoftext|>",
        "tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>"}, indent=2)


def load(folder):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == LENGTH
    return tokenizer


def encode(tokenizer, prompts):
    import torch

    return torch.tensor(tokenizer(list(prompts), padding="max_length", max_length=LENGTH, truncation=True).input_ids)


if __name__ == "__main__":
    write(sys.argv[1])
    tok = load(sys.argv[1])
    split = [w for w in scenes.words() if len(tok(w).input_ids) != 3]
    if split:
        sys.exit(f"not one token each: {split}")
    print(f"{len(tok)} tokens, {tok.bos_token_id} begins, {tok.eos_token_id} ends and pads")
