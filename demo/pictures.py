"""The demo's pictures, drawn by code: nothing here was ever anybody's photograph."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

WIDTH, HEIGHT = 960, 640


def scene(seed: int) -> Image.Image:
    """A landscape of hills, a sky and boxes: 960 by 640 RGB, with structure enough for PDQ."""
    random = np.random.default_rng(seed)
    x = np.linspace(0, 1, WIDTH)
    rows = np.linspace(0, 1, HEIGHT)[:, None]
    sky, ground = random.integers(60, 255, 3), random.integers(0, 160, 3)
    pixels = sky * (1 - 0.5 * rows[..., None]) * np.ones((HEIGHT, WIDTH, 3))
    for layer in range(4):
        waves = np.zeros(WIDTH)
        for _ in range(4):
            waves += random.uniform(0.02, 0.12) * np.sin(
                2 * np.pi * (random.uniform(0.5, 4) * x + random.uniform())
            )
        ridge = 0.35 + 0.15 * layer + waves
        below = rows > ridge[None, :]
        shade = ground * (1 - 0.2 * layer) + random.integers(-30, 30, 3)
        pixels[below] = shade + 25 * np.sin(40 * rows + 12 * x)[below][:, None]
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(14):
        left, top = random.integers(0, WIDTH - 120), random.integers(HEIGHT // 4, HEIGHT - 120)
        size = random.integers(30, 180, 2)
        box = (int(left), int(top), int(left + size[0]), int(top + size[1]))
        colour = tuple(int(value) for value in random.integers(0, 255, 3))
        if random.integers(2):
            draw.ellipse(box, fill=colour)
        else:
            draw.rectangle(box, fill=colour)
    return picture


def edited(picture: Image.Image) -> Image.Image:
    """What a re-poster does: smaller, brighter, with a mark in a corner."""
    copy = ImageEnhance.Brightness(picture).enhance(1.15)
    ImageDraw.Draw(copy).text((WIDTH - 190, HEIGHT - 30), "seen on example.org", fill=(255, 255, 255))
    return copy.resize((WIDTH * 2 // 3, HEIGHT * 2 // 3))


def flipped(picture: Image.Image) -> Image.Image:
    """What somebody does so that plain PDQ does not find it: flipped left to right, on a white border."""
    return ImageOps.expand(ImageOps.mirror(picture), border=60, fill=(255, 255, 255))


def encoded(picture: Image.Image, encoding: str, **options: int) -> bytes:
    """The picture as a file of this encoding."""
    file = io.BytesIO()
    picture.save(file, encoding, **options)
    return file.getvalue()
