#!/usr/bin/env python3
"""Puts pictures with captions on one sheet.

contact_sheet.py [--title T] SHEET.png (PICTURE.png CAPTION SUBCAPTION)...
"""

import argparse
import math

from PIL import Image, ImageDraw, ImageFont

CELL = 192  # pixels per picture
MARGIN = 16
TEXT = 40  # room for two lines below a picture
COLUMNS = 4
BACKGROUND = (250, 250, 248)
INK = (30, 30, 30)
GREY = (120, 120, 120)


def load_font(size: int):
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--title", default="")
    parser.add_argument("sheet")
    parser.add_argument("cells", nargs="+", metavar="PICTURE CAPTION SUBCAPTION")
    args = parser.parse_args()
    if len(args.cells) % 3 != 0:
        parser.error("three arguments for each picture")
    cells = [args.cells[i : i + 3] for i in range(0, len(args.cells), 3)]

    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    top = MARGIN + (24 if args.title else 0)
    width = MARGIN + columns * (CELL + MARGIN)
    height = top + rows * (CELL + TEXT + MARGIN)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    caption_font, small_font = load_font(14), load_font(11)
    if args.title:
        draw.text((MARGIN, MARGIN - 6), args.title, fill=INK, font=caption_font)
    for number, (path, caption, subcaption) in enumerate(cells):
        x = MARGIN + (number % columns) * (CELL + MARGIN)
        y = top + (number // columns) * (CELL + TEXT + MARGIN)
        with Image.open(path) as picture:
            sheet.paste(picture.convert("RGB").resize((CELL, CELL), Image.LANCZOS), (x, y))
        draw.text((x, y + CELL + 3), caption, fill=INK, font=caption_font)
        draw.text((x, y + CELL + 21), subcaption, fill=GREY, font=small_font)
    sheet.save(args.sheet)


if __name__ == "__main__":
    main()
