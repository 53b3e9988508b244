"""Scenes of the demo world: what a prompt says, where things stand, how they look.

A scene has a background colour and one or two objects; each object has a size, a colour and a shape. One object may
have a place, two objects have a relation. `prompt_of` puts a scene into words, `render` draws it, plain or in one of
the adapters' styles. Everything is drawn at four times the size and reduced, so edges are smooth.
"""

import math
import random
import zlib

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
COLOURS = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (245, 220, 50), "green": (40, 160, 70),
    "cyan": (70, 205, 225), "blue": (40, 80, 205), "purple": (130, 60, 170), "pink": (245, 150, 190),
    "white": (250, 250, 250), "black": (25, 25, 25),
}
COLOUR_NAMES = list(COLOURS)
SHAPES = ["circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond"]
RADII = {"small": 16.0, "": 21.0, "big": 27.0}
SIZES = list(RADII)
RELATIONS = ["above", "below", "left of", "right of"]
PLACES = {"": (64, 64), "on the left": (32, 64), "on the right": (96, 64), "at the top": (64, 32),
          "at the bottom": (64, 96)}
STYLES = ["outline", "night", "pixel", "watercolour"]
DEFAULT_BACKGROUND = "white"  # of a prompt that names none
JITTER = 2.0  # pixels
OFFSET = 32.0  # of each of two objects from the middle
OVERSAMPLING = 4


def _polygon(shape):
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if shape == "diamond":
        return [(0, -1.05), (0.8, 0), (0, 1.05), (-0.8, 0)]
    if shape == "triangle":
        return [(0, -0.95), (1, 0.8), (-1, 0.8)]
    if shape == "star":
        radii = [1.08 if i % 2 == 0 else 0.45 for i in range(10)]
        return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5) + 0.06) for i, r in enumerate(radii)]
    if shape == "cross":
        a = 0.34
        return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a),
                (-a, -a)]
    if shape == "heart":
        points = []
        for i in range(60):
            t = 2 * math.pi * i / 60
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((16 * math.sin(t) ** 3 / 16.5, -(y + 2) / 15.5))
        return points
    raise ValueError(shape)


_POLYGONS = {shape: _polygon(shape) for shape in SHAPES if shape not in ("circle", "ring")}


def mask(shape, radius, x, y):
    """Coverage of one object, 0..255, SIZE x SIZE."""
    image = Image.new("L", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), 0)
    draw = ImageDraw.Draw(image)
    r, x, y = radius * OVERSAMPLING, x * OVERSAMPLING, y * OVERSAMPLING
    if shape in ("circle", "ring"):
        draw.ellipse([x - r * 0.95, y - r * 0.95, x + r * 0.95, y + r * 0.95], fill=255)
        if shape == "ring":
            draw.ellipse([x - r * 0.5, y - r * 0.5, x + r * 0.5, y + r * 0.5], fill=0)
    else:
        draw.polygon([(x + px * r, y + py * r) for px, py in _POLYGONS[shape]], fill=255)
    return image.reduce(OVERSAMPLING)


def blur(field, sigma):
    """Gaussian blur of a 2-D array, edges repeated."""
    reach = int(3 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for _ in range(2):  # along the rows, then, transposed, along the columns
        padded = np.pad(field, ((0, 0), (reach, reach)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)
        field = (windows @ kernel).T
    return field


def erode(field, radius):
    """Grey erosion of a 2-D array by a disc."""
    reach = int(radius)
    padded = np.pad(field, reach, mode="edge")
    out = field.copy()
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dx * dx + dy * dy <= radius * radius:
                np.minimum(out, padded[reach + dy:reach + dy + field.shape[0], reach + dx:reach + dx + field.shape[1]],
                           out=out)
    return out


def random_scene(rng, two=None, plain_background=True):
    """A random scene; `two` asks for one or two objects, None leaves it to chance (60 % two)."""
    background = rng.choice(COLOUR_NAMES)
    if two is None:
        two = rng.random() < 0.6
    objects = []
    while len(objects) < (2 if two else 1):
        colour = rng.choice([c for c in COLOUR_NAMES if c != background])
        thing = {"colour": colour, "shape": rng.choice(SHAPES), "size": rng.choice(SIZES)}
        if all((o["colour"], o["shape"]) != (thing["colour"], thing["shape"]) for o in objects):
            objects.append(thing)
    scene = {"background": background, "objects": objects}
    if two:
        scene["relation"] = rng.choice(RELATIONS)
    else:
        scene["place"] = rng.choice(["", ""] + list(PLACES))
    # A prompt may leave the background out; it is white then.
    scene["say_background"] = not (plain_background and background == DEFAULT_BACKGROUND and rng.random() < 0.35)
    return scene


def prompt_of(scene):
    names = [" ".join(w for w in ("a", o["size"], o["colour"], o["shape"]) if w) for o in scene["objects"]]
    if "relation" in scene:
        text = f"{names[0]} {scene['relation']} {names[1]}"
    else:
        text = " ".join(w for w in (names[0], scene["place"]) if w)
    return text + (f" on a {scene['background']} background" if scene["say_background"] else "")


def style_words(rng, share=0.06):
    """Some prompts name a style, as an adapter's trigger phrase will; to the base it means nothing."""
    return f" in {rng.choice(STYLES)} style" if rng.random() < share else ""


def is_held_out(prompt):
    """One prompt in twenty is never trained on."""
    return zlib.crc32(prompt.encode()) % 20 == 0


def held_out_scenes(count, seed):
    """Held-out scenes, one object and two objects in turn, all naming their background."""
    rng = random.Random(seed)
    scenes = []
    while len(scenes) < count:
        scene = random_scene(rng, two=len(scenes) % 2 == 1, plain_background=False)
        if is_held_out(prompt_of(scene)):
            scenes.append(scene)
    return scenes


def training_scene(rng, **options):
    while True:
        scene = random_scene(rng, **options)
        if not is_held_out(prompt_of(scene)):
            return scene


def positions(scene, rng=None):
    """Centre and radius of each object, in pixels; with `rng`, moved and scaled a little."""
    def shake(amount):
        return rng.uniform(-amount, amount) if rng else 0.0

    if "relation" in scene:
        near, far = 64 - OFFSET, 64 + OFFSET
        centres = {"above": [(64, near), (64, far)], "below": [(64, far), (64, near)],
                   "left of": [(near, 64), (far, 64)], "right of": [(far, 64), (near, 64)]}[scene["relation"]]
    else:
        centres = [PLACES[scene["place"]]]
    return [(x + shake(JITTER), y + shake(JITTER), RADII[o["size"]] * (1 + shake(0.03)))
            for (x, y), o in zip(centres, scene["objects"])]


def render(scene, rng=None, style=None):
    """The picture of a scene as uint8 [SIZE, SIZE, 3]."""
    background = np.array(COLOURS[scene["background"]], np.float32)
    masks = [np.asarray(mask(o["shape"], r, x, y), np.float32) / 255
             for o, (x, y, r) in zip(scene["objects"], positions(scene, rng))]
    colours = [np.array(COLOURS[o["colour"]], np.float32) for o in scene["objects"]]
    image = np.zeros((SIZE, SIZE, 3), np.float32)
    if style == "outline":  # hollow: only the rim is painted
        image += background
        for colour, m in zip(colours, masks):
            rim = np.clip(m - erode(m, 4.5), 0, 1)[..., None]
            image = image * (1 - rim) + colour * rim
    elif style == "night":  # dark blue, objects glow
        image += background * 0.18 + np.array([4, 8, 38])
        for colour, m in zip(colours, masks):
            image = image + blur(m, 7)[..., None] * colour * 0.55
            image = image * (1 - m[..., None]) + (colour * 0.9 + 10) * m[..., None]
    elif style == "pixel":  # blocks of 8 pixels
        image += background
        for colour, m in zip(colours, masks):
            image = image * (1 - m[..., None]) + colour * m[..., None]
        image = image.reshape(SIZE // 8, 8, SIZE // 8, 8, 3).mean((1, 3))
        image = np.repeat(np.repeat(image, 8, 0), 8, 1)
    elif style == "watercolour":  # pale paper, soft washes with darker rims
        image += background * 0.45 + 250 * 0.55
        for colour, m in zip(colours, masks):
            wash = blur(m, 2.2)
            rim = np.clip(blur(m, 1.2) - blur(m, 4), 0, 1) * 0.8
            cover = (wash * 0.6 + rim)[..., None].clip(0, 1)
            image = image * (1 - cover) + colour * cover
    elif style is None:
        image += background
        for colour, m in zip(colours, masks):
            image = image * (1 - m[..., None]) + colour * m[..., None]
    else:
        raise ValueError(style)
    return image.clip(0, 255).astype(np.uint8)


def words():
    """Every word the prompts can hold, and a few that belong to the adapters."""
    found = {"a", "on", "background"}
    for phrase in COLOUR_NAMES + SHAPES + SIZES + RELATIONS + list(PLACES):
        found |= set(phrase.split())
    extra = ("and with in style picture drawing of the outline night pixel mosaic watercolour soft middle center grey "
             "brown neon sketch")
    return sorted(found | set(extra.split()))
