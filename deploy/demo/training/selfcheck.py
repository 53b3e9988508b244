"""Checks the measuring itself on true renders: everything must be read right, and styles must tell apart.

    python selfcheck.py
"""

import random

import numpy as np

import measure
import scenes


def main():
    rng = random.Random(77)
    drawn = [scenes.random_scene(rng) for _ in range(400)]
    results = [measure.judge(s, scenes.render(s, rng)) for s in drawn]
    for two in (False, True):
        part = [r for r, s in zip(results, drawn) if ("relation" in s) == two]
        print("two objects" if two else "one object",
              {k: round(100 * float(np.mean([r[k] for r in part])), 1) for k in part[0]})
    for scene in drawn:
        again = measure.scene_from_prompt(scenes.prompt_of(scene))
        assert scenes.prompt_of(again) == scenes.prompt_of(scene)
        assert again["background"] == scene["background"] and again["objects"] == scene["objects"]
    for style in [None] + scenes.STYLES:
        figures = [measure.style_figures(scenes.render(s, rng, style)) for s in drawn[:60]]
        print(style or "plain", {k: round(float(np.mean([f[k] for f in figures])), 2) for k in figures[0]})


if __name__ == "__main__":
    main()
