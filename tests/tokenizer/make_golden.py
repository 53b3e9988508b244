"""Writes testdata/: a small CLIP vocabulary and what the reference makes of some
texts with it. Run again after a change of the reference's version.

  make_golden.py [VOCABULARY]

VOCABULARY is a folder with CLIP's vocab.json and merges.txt; without it they
come from clip_vocabulary.py. Made with transformers 5.23.0, tokenizers 0.23.
"""

import json
import pathlib
import random
import sys
import tempfile

from transformers import CLIPTokenizer

import clip_vocabulary
import compare_with_reference as comparison

NUM_MERGES = 400
NUM_RANDOM_TEXTS = 200
DATA = pathlib.Path(__file__).parent / "testdata"

TEXTS = [
    "", " ", "a photo of a cat", "A PHOTO of the Cat!", "it's 'sunny' 'Tis we'LL",
    "don't,won't", "1234 8k 1/2 \u00bd \u2167", "caf\u00e9 cafe\u0301 CAF\u00c9",
    "\u0130stanbul \u0131", "\u03a3\u0399\u03a3\u03a5\u03a6\u039f\u03a3",
    "stra\u00dfe \u1e9e", "\u6f22\u5b57\u4eee\u540d \u30ac\u30ab\u3099",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab", "\u0627\u0644\u0639\u0631\u0628",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "the quick brown fox " * 20, "a\u0316\u0345\u0301b a\u0345\u0316b", "\u212b \u2126 \ufb01 \uff21",
    "x\ty\n\nz\u3000w\u200bv\u2028u", "<|endoftext|>", "a<|startoftext|>b",
    "<|STARTOFTEXT|>!", "!<|ENDOFTEXT|>!", "<|endoftext", "</w>", "\0a\0",
    # Letters, numbers and cases of Unicode 14 to 17; marks of Unicode 10 to 14,
    # which the reference does not order.
    "a\u0345\u0898 a\u0345\u1df6 \ua7c0 \u1c89 \ua7cb \ua7dc \ua7ce "
    "\U00010d50 \U00016ea0 \U0002ebf0x \U0001ccf0 \U000323b0",
]


def main():
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        source = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if len(sys.argv) == 1:
            clip_vocabulary.write(source)
        merges = (source / "merges.txt").read_text().split("\n")
        merges = merges[:NUM_MERGES + 1]
        tokens = list(json.loads((source / "vocab.json").read_text()))
    tokens = tokens[:512 + NUM_MERGES] + [comparison.START, comparison.END]
    (DATA / "merges.txt").write_text("\n".join(merges) + "\n")
    (DATA / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(tokens)},
                   ensure_ascii=False))
    (DATA / "tokenizer_config.json").write_text('{"model_max_length": 77}\n')
    tokenizer = CLIPTokenizer.from_pretrained(DATA)
    rng = random.Random(1)
    texts = TEXTS + list(comparison.random_texts(NUM_RANDOM_TEXTS, rng))
    golden = [
        {"text": text,
         "tokens": tokenizer(text, add_special_tokens=False).input_ids}
        for text in texts]
    for case in golden[:len(TEXTS)]:
        case["padded"] = tokenizer(case["text"], padding="max_length",
                                   truncation=True).input_ids
    (DATA / "golden.json").write_text(
        "[\n" + ",\n".join(json.dumps(case) for case in golden) + "\n]\n")


if __name__ == "__main__":
    main()
