"""Measures the demo model and its adapters from the pixels of their pictures.

    python evaluate.py --model model                          the base, 100 held-out prompts, half with two objects
    python evaluate.py --model model --adapter adapters/night.safetensors [--strength 1]
    python evaluate.py --list > prompts.json                  the held-out prompts, to be drawn by another program
    python evaluate.py --pictures FOLDER --list-file L.json   judges such pictures: [{"file": "0.png", "prompt": "…"}]

Drawing needs torch, diffusers, transformers and peft; --list and --pictures need only numpy and pillow. The last line
of the output is JSON. For what the words mean see `judge` in training/measure.py.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "training"))

import measure  # noqa: E402
import scenes  # noqa: E402

STATEMENTS = ["background", "count", "colours", "shapes", "pairs", "places", "sizes"]


def load_pipeline(folder, sampler):
    import diffusers
    import torch

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(torch.float32)
    kinds = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler"}
    pipeline.scheduler = getattr(diffusers, kinds[sampler]).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, prompts, seed, steps, guidance, batch=20):
    import torch

    pictures = []
    for i in range(0, len(prompts), batch):
        part = prompts[i:i + batch]
        noise = [torch.Generator().manual_seed(seed + i + k) for k in range(len(part))]
        images = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=noise, height=128,
                          width=128, output_type="np").images
        pictures += [(image * 255).round().astype(np.uint8) for image in images]
    return pictures


def summary(results):
    return {k: round(100 * float(np.mean([r[k] for r in results])), 1) for k in STATEMENTS}


def report(prompts, pictures):
    judged = [(measure.scene_from_prompt(p), picture) for p, picture in zip(prompts, pictures)]
    results = [measure.judge(s, picture) for s, picture in judged]
    one = [r for r, (s, _) in zip(results, judged) if len(s["objects"]) == 1]
    two = [r for r, (s, _) in zip(results, judged) if len(s["objects"]) == 2]
    out = {"pictures": len(results)}
    for name, part in (("one_object", one), ("two_objects", two), ("all", results)):
        if part:
            out[name] = summary(part)
            print(f"{name:12}" + "".join(f"  {k} {v:5.1f} %" for k, v in out[name].items()))
    figures = [measure.style_figures(picture) for picture in pictures]
    out["style"] = {k: round(float(np.mean([f[k] for f in figures])), 2) for k in figures[0]}
    print("style       " + "".join(f"  {k} {v}" for k, v in out["style"].items()))
    return out


def nearest_style(prompts, pictures):
    """How many pictures look, by their figures, most like a render in each style of the same scene."""
    keys = ("brightness", "saturation", "open", "blocks")
    spread = {"brightness": 20.0, "saturation": 20.0, "open": 0.5, "blocks": 0.4}

    def bounded(figures):  # 1.9 is what the VAE leaves of true blocks
        return {**figures, "blocks": min(figures["blocks"], 1.9)}

    counts = {"plain": 0, **{s: 0 for s in scenes.STYLES}}
    for prompt, picture in zip(prompts, pictures):
        scene = measure.scene_from_prompt(prompt)
        seen = bounded(measure.style_figures(picture))

        def distance(style):
            true = bounded(measure.style_figures(scenes.render(scene, None, None if style == "plain" else style)))
            return sum(((seen[k] - true[k]) / spread[k]) ** 2 for k in keys)

        counts[min(counts, key=distance)] += 1
    return {k: round(100 * v / len(pictures), 1) for k, v in counts.items()}


def sheet(pictures, file, columns=10):
    rows = [np.concatenate(pictures[i:i + columns], 1) for i in range(0, len(pictures) // columns * columns, columns)]
    Image.fromarray(np.concatenate(rows)).save(file)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model")
    p.add_argument("--adapter")
    p.add_argument("--strength", type=float, default=1.0)
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--prompts-seed", type=int, default=555)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=2.0)
    p.add_argument("--sampler", choices=["ddim", "euler", "dpmpp_2m"], default="ddim")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--sheet", help="a PNG of all pictures")
    p.add_argument("--save", help="a folder for the pictures and their list")
    p.add_argument("--list", action="store_true", help="print the held-out prompts and stop")
    p.add_argument("--pictures", help="a folder of pictures to judge")
    p.add_argument("--list-file", help='JSON: [{"file": …, "prompt": …}]')
    a = p.parse_args()

    if a.pictures:
        with open(a.list_file or os.path.join(a.pictures, "list.json"), encoding="utf-8") as f:
            entries = json.load(f)
        prompts = [e["prompt"] for e in entries]
        pictures = [np.asarray(Image.open(os.path.join(a.pictures, e["file"])).convert("RGB")) for e in entries]
    else:
        prompts = [scenes.prompt_of(s) for s in scenes.held_out_scenes(a.count, a.prompts_seed)]
        if a.list:
            json.dump([{"file": f"{i}.png", "prompt": prompt} for i, prompt in enumerate(prompts)], sys.stdout, indent=1)
            print()
            return
        import torch

        if a.threads:
            torch.set_num_threads(a.threads)
        pipeline = load_pipeline(a.model, a.sampler)
        if a.adapter:
            import adapter_file

            adapter_file.merge(pipeline, a.adapter, a.strength)
        begin = time.time()
        pictures = draw(pipeline, prompts, a.seed, a.steps, a.guidance)
        print(f"{len(pictures)} pictures, {(time.time() - begin) / len(pictures):.2f} s each")

    out = report(prompts, pictures)
    out["looks_like"] = nearest_style(prompts, pictures)
    print("looks like  " + "".join(f"  {k} {v} %" for k, v in out["looks_like"].items()))
    if a.sheet:
        sheet(pictures, a.sheet)
    if a.save:
        os.makedirs(a.save, exist_ok=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(os.path.join(a.save, f"{i}.png"))
        with open(os.path.join(a.save, "list.json"), "w", encoding="utf-8") as f:
            json.dump([{"file": f"{i}.png", "prompt": prompt} for i, prompt in enumerate(prompts)], f, indent=1)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
