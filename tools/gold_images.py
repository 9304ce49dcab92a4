#!/usr/bin/env python3
"""Writes tests/gold_images.h: turns of the hue as the standard library's colorsys makes them, and JPEG files of 11 x 9 pixels as libjpeg does.

    python3 tools/gold_images.py > tests/gold_images.h          needs Pillow"""
import colorsys
import io
import textwrap

import PIL
from PIL import Image

W, H = 11, 9
TURNS = [0.5, -0.5, 0.25, -0.1, 1 / 3, -1 / 3, 1 / 6, 0.07, -0.43, 0.49]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (0, 0, 0), (255, 255, 255), (77, 77, 77), (200, 30, 30),
           (30, 200, 200), (12, 13, 14), (250, 128, 7), (3, 90, 89), (100, 20, 180)]


def turned(rgb, turn):  # torchvision's adjust_hue
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    return [255 * c for c in colorsys.hsv_to_rgb((h + turn) % 1, s, v)]


def jpeg(mode, pixel, **options):
    image, out = Image.new(mode, (W, H)), io.BytesIO()
    for y in range(H):
        for x in range(W):
            image.putpixel((x, y), pixel(x, y))
    image.save(out, "JPEG", quality=90, optimize=True, **options)
    return out.getvalue()


def array(kind, name, values):
    print(f"static const {kind} {name} = {{")
    print(textwrap.fill(", ".join(values), 130, initial_indent="    ", subsequent_indent="    ") + ",\n};")


print(f"/* Made by tools/gold_images.py with Pillow {PIL.__version__}: do not edit. */\n#ifndef GOLD_IMAGES_H\n#define GOLD_IMAGES_H")
print("/* R, G, B in [0,255], the turn of the hue, R, G, B after it */")
rows = [(*c, t, *turned(c, t)) for i, c in enumerate(COLOURS) for t in TURNS[i % 2::2]]
array("double", "gold_hue[][7]", ["{ " + ", ".join(f"{v:.9g}" for v in row) + " }" for row in rows])
print("/* 11 x 9: one channel, 20 + 14 x + 7 y; and three, progressive: 20 + 20 x, 30 + 20 y, 220 - 10 x - 9 y */")
array("uint8_t", "gold_jpeg_grey[]", [str(b) for b in jpeg("L", lambda x, y: 20 + 14 * x + 7 * y)])
array("uint8_t", "gold_jpeg_colour[]", [str(b) for b in jpeg("RGB", lambda x, y: (20 + 20 * x, 30 + 20 * y, 220 - 10 * x - 9 * y), progressive=True, subsampling=0)])
print("#endif")
