"""Reads a picture's contents from its pixels: no learning, only colours and outlines.

Every pixel gets the nearest colour of the palette; the background is the commonest one along the border; what differs
from it in connected patches of some size are the objects. An object's colour is the commonest in its inside, its
shape the template it overlaps best, its size the template size nearest to its extent.
"""

import numpy as np
from PIL import Image

import scenes

_PALETTE = np.array([scenes.COLOURS[c] for c in scenes.COLOUR_NAMES], np.float32)
_FOREGROUND = 45.0  # RGB distance from the background's median
_LEAST_AREA = 80  # pixels
_GRID = 28


def _shift(m, dy, dx):
    return np.pad(m, 1)[1 + dy:1 + dy + m.shape[0], 1 + dx:1 + dx + m.shape[1]]


_CROSS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]


def erode(m, times=1):
    for _ in range(times):
        m = np.logical_and.reduce([_shift(m, *d) for d in _CROSS])
    return m


def dilate(m, times=1):
    for _ in range(times):
        m = np.logical_or.reduce([_shift(m, *d) for d in _CROSS])
    return m


def patches(m):
    """Connected patches (four neighbours) of a boolean image, largest first."""
    found = []
    left = m.copy()
    while left.any():
        patch = np.zeros_like(m)
        patch[tuple(np.argwhere(left)[0])] = True
        while True:
            grown = dilate(patch) & m
            if grown.sum() == patch.sum():
                break
            patch = grown
        left &= ~patch
        found.append(patch)
    return sorted(found, key=lambda p: -p.sum())


def _normalised(m):
    """The patch stretched to a fixed grid, its proportions kept."""
    ys, xs = np.nonzero(m)
    half = max(np.ptp(ys), np.ptp(xs)) / 2 + 1
    cy, cx = (ys.min() + ys.max()) / 2 + 0.5, (xs.min() + xs.max()) / 2 + 0.5
    image = Image.fromarray((m * 255).astype(np.uint8))
    box = image.transform((_GRID, _GRID), Image.Transform.EXTENT, (cx - half, cy - half, cx + half, cy + half),
                          Image.Resampling.BILINEAR)
    return np.asarray(box, np.float32) / 255


_TEMPLATES = [(s, _normalised(np.asarray(scenes.mask(s, r, 64, 64)) > 127))
              for s in scenes.SHAPES for r in scenes.RADII.values()]


def analyse(picture):
    """{"background": colour, "objects": [{colour, shape, size, x, y, area, overlap}]}, largest object first."""
    f = picture.astype(np.float32)
    label = ((f[:, :, None] - _PALETTE) ** 2).sum(-1).argmin(-1)
    border = np.concatenate([label[:4].ravel(), label[-4:].ravel(), label[:, :4].ravel(), label[:, -4:].ravel()])
    background = np.bincount(border, minlength=len(_PALETTE)).argmax()
    colour = np.median(f[label == background], 0)
    foreground = dilate(erode(((f - colour) ** 2).sum(-1) > _FOREGROUND ** 2))
    objects = []
    for m in patches(foreground):
        if m.sum() < _LEAST_AREA:
            break
        core = erode(m, 2)
        if core.sum() <= 10:
            core = m
        counts = np.bincount(label[core], minlength=len(_PALETTE))
        counts[background] = 0
        grid = _normalised(m)
        overlaps = [np.minimum(grid, t).sum() / np.maximum(grid, t).sum() for _, t in _TEMPLATES]
        best = int(np.argmax(overlaps))
        ys, xs = np.nonzero(m)
        shape = _TEMPLATES[best][0]
        extent = max(np.ptp(ys), np.ptp(xs)) / 2
        unit = _EXTENTS[shape]
        size = min(scenes.SIZES, key=lambda s: abs(extent - unit * scenes.RADII[s]))
        objects.append({"colour": scenes.COLOUR_NAMES[counts.argmax()], "shape": shape, "size": size,
                        "x": float(xs.mean()), "y": float(ys.mean()), "area": int(m.sum()),
                        "overlap": float(overlaps[best])})
    return {"background": scenes.COLOUR_NAMES[background], "objects": objects}


def _extent(shape):
    ys, xs = np.nonzero(np.asarray(scenes.mask(shape, 40, 64, 64)) > 127)
    return max(np.ptp(ys), np.ptp(xs)) / 2 / 40


_EXTENTS = {s: _extent(s) for s in scenes.SHAPES}


def judge(scene, picture):
    """Which of the prompt's statements hold for the picture. `colours`, `shapes` and `sizes` count in any order;
    `places` means: each object, known by its colour and shape, stands where the prompt says."""
    seen = analyse(picture)
    wanted, got = scene["objects"], seen["objects"]
    result = {"background": seen["background"] == scene["background"], "count": len(got) == len(wanted)}
    got = got[:len(wanted)]  # a crumb makes the count wrong, nothing else

    def bag(things, *keys):
        return sorted(tuple(t[k] for k in keys) for t in things)

    result["colours"] = bag(got, "colour") == bag(wanted, "colour")
    result["shapes"] = bag(got, "shape") == bag(wanted, "shape")
    result["pairs"] = bag(got, "colour", "shape") == bag(wanted, "colour", "shape")
    result["sizes"] = bag(got, "colour", "shape", "size") == bag(wanted, "colour", "shape", "size")
    if len(got) != len(wanted):
        result["places"] = False
    elif "relation" in scene:
        axis = "y" if scene["relation"] in ("above", "below") else "x"
        sign = 1 if scene["relation"] in ("above", "left of") else -1
        ordered = sorted(got, key=lambda o: sign * o[axis])
        dx, dy = abs(got[0]["x"] - got[1]["x"]), abs(got[0]["y"] - got[1]["y"])
        result["places"] = ((dy > dx) == (axis == "y") and
                            all(g["colour"] == w["colour"] and g["shape"] == w["shape"]
                                for g, w in zip(ordered, wanted)))
    else:
        x, y = scenes.PLACES[scene["place"]]
        result["places"] = abs(got[0]["x"] - x) < 16 and abs(got[0]["y"] - y) < 16
    return result


def scene_from_prompt(prompt):
    """The scene a prompt describes; ValueError if it is not one of the demo's prompts."""
    text = " ".join(prompt.lower().replace(",", " ").split())
    scene = {"background": scenes.DEFAULT_BACKGROUND, "objects": [], "say_background": False}
    if text.endswith(" background"):
        text, _, colour = text[:-len(" background")].rpartition(" on a ")
        if colour not in scenes.COLOURS:
            raise ValueError(prompt)
        scene.update(background=colour, say_background=True)

    def thing(words):
        words = words.split()
        if words[:1] == ["a"]:
            words = words[1:]
        size = words.pop(0) if words and words[0] in scenes.RADII else ""
        if len(words) != 2 or words[0] not in scenes.COLOURS or words[1] not in scenes.SHAPES:
            raise ValueError(prompt)
        return {"size": size, "colour": words[0], "shape": words[1]}

    for relation in scenes.RELATIONS:
        if f" {relation} " in text:
            scene["objects"] = [thing(part) for part in text.split(f" {relation} ")]
            scene["relation"] = relation
            if len(scene["objects"]) != 2:
                raise ValueError(prompt)
            return scene
    scene["place"] = next((p for p in scenes.PLACES if p and text.endswith(" " + p)), "")
    scene["objects"] = [thing(text[:len(text) - len(scene["place"])])]
    return scene


def style_figures(picture):
    """Numbers that tell the adapters' styles from the plain pictures."""
    f = picture.astype(np.float32)
    seen = analyse(picture)
    step_x, step_y = np.abs(np.diff(f, axis=1)).mean((0, 2)), np.abs(np.diff(f, axis=0)).mean((1, 2))
    edges = (step_x[7::8].mean() + step_y[7::8].mean()) / 2
    others = (np.delete(step_x, np.s_[7::8]).mean() + np.delete(step_y, np.s_[7::8]).mean()) / 2
    border = np.concatenate([f[:4].reshape(-1, 3), f[-4:].reshape(-1, 3), f[:, :4].reshape(-1, 3),
                             f[:, -4:].reshape(-1, 3)])
    background = np.median(border, 0)
    foreground = ((f - background) ** 2).sum(-1) > _FOREGROUND ** 2
    # An object is open if the middle of its box looks more like the background than like the object.
    opened = []
    for m in patches(foreground):
        if m.sum() < 40:
            break
        ys, xs = np.nonzero(m)
        y, x = (ys.min() + ys.max()) // 2, (xs.min() + xs.max()) // 2
        middle = np.median(f[y - 1:y + 2, x - 1:x + 2].reshape(-1, 3), 0)
        own = np.median(f[m], 0)
        opened.append(((middle - background) ** 2).sum() < ((middle - own) ** 2).sum())
    return {"brightness": float(f.mean()), "border_brightness": float(border.mean()),
            "saturation": float((f.max(-1) - f.min(-1)).mean()), "open": float(np.mean(opened)) if opened else 0.0,
            "blocks": float(edges / (others + 0.25)), "objects": len(seen["objects"])}
