"""Pictures drawn by code: such as cameras take, and the screens and pages that are most of what people share.

Each is drawn from a seed and no two seeds give the same. A drawn photograph has what hashing meets in a real
one: detail that falls off with frequency, light from one side, objects with hard and soft edges before a
background, grain. It is not a real one; ``bench.detection`` takes folders of those.
"""

import math
import random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Size = tuple[int, int]

_TEXT: Final = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were her all she there would their we him been has when who will more no if out so said what up
its about into than them can only other new some could time these two may then do first any my now such like
our over man me even most made after also did many before must through back years where much your way well
down should because each just those people too little state good very make world still own see men work long
get here between both life being under never day same another know while last might us great old year off
come since against go came right used take three
"""
_WORDS: Final = _TEXT.split()

_SIZES: Final = ((960, 640), (640, 960), (800, 600), (600, 800), (720, 720), (1024, 576), (1200, 800))


def photograph(seed: int, size: Size | None = None) -> Image.Image:
    """A picture such as a camera takes."""
    chance = random.Random(seed)
    noise = np.random.default_rng(seed)
    width, height = size or chance.choice(_SIZES)
    picture = Image.fromarray(_clouds(noise, width, height, chance.uniform(1.2, 1.9), chance.uniform(25, 55)))
    if chance.random() < 0.6:
        _ground(picture, noise, chance)
    for _ in range(chance.randint(3, 14)):
        _object(picture, noise, chance)
    light = np.linspace(chance.uniform(0.6, 1), chance.uniform(0.9, 1.25), width)[np.newaxis, :, np.newaxis]
    light = light * np.linspace(chance.uniform(0.8, 1.2), chance.uniform(0.7, 1), height)[:, None, None]
    grain = noise.normal(0, chance.uniform(1, 4), (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(picture) * light + grain, 0, 255).astype(np.uint8))


def document(seed: int) -> Image.Image:
    """A page: headings, paragraphs in one column or two, perhaps a table, a chart or a rule."""
    chance = random.Random(seed)
    width = chance.choice((620, 800, 1000))
    height = round(width * chance.choice((1.414, 1.294, 0.7)))
    paper, ink = chance.choice((((255, 255, 255), (20, 20, 20)), ((250, 246, 235), (40, 30, 20))))
    page = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(page)
    margin = width // chance.randint(8, 14)
    size = max(11, width // chance.randint(42, 64))
    top = margin + write(pen, (margin, margin), width - 2 * margin, 1, size * 2, ink, chance) + size
    columns = chance.choice((1, 1, 2))
    across = (width - (columns + 1) * margin) // columns
    for column in range(columns):
        left, down = margin + column * (across + margin), top
        while down < height - margin - 4 * size:
            part = chance.random()
            room = height - margin - down
            if part < 0.65:
                lines = min(chance.randint(2, 12), int(room // (size * 1.35)))
                down += write(pen, (left, down), across, lines, size, ink, chance)
            elif part < 0.8:
                down += _table(
                    pen, (left, down), across, min(room, size * chance.randint(6, 18)), ink, chance
                )
            elif part < 0.93:
                down += _chart(
                    pen, (left, down), across, min(room, size * chance.randint(8, 20)), ink, chance
                )
            else:
                pen.line((left, down, left + across, down), fill=ink)
            down += size * chance.randint(1, 3)
    return page


def screen(seed: int) -> Image.Image:
    """What a telephone or a computer shows without a photograph in it: a chat, a list, a form, a page."""
    chance = random.Random(seed)
    dark = chance.random() < 0.5
    back: Colour = chance.choice(
        ((18, 18, 18), (0, 0, 0), (32, 33, 36)) if dark else ((255, 255, 255), (240, 242, 245))
    )
    ink: Colour = (230, 230, 230) if dark else (20, 20, 20)
    faint: Colour = (70, 72, 76) if dark else (214, 218, 224)
    width, height = chance.choice(((540, 1170), (540, 960), (1366, 768), (1280, 800)))
    shown = Image.new("RGB", (width, height), back)
    pen = ImageDraw.Draw(shown)
    size = max(13, min(width, height) // chance.randint(32, 44))
    pen.rectangle((0, 0, width, size * 3), fill=faint)
    write(pen, (size, size), width // 2, 1, size, ink, chance)
    kind = chance.choice(("chat", "list", "form", "page"))
    down = size * 4
    left, across = (width // 5, width * 3 // 5) if width > height else (size, width - 2 * size)
    if width > height:
        for item in range(chance.randint(4, 12)):
            write(pen, (size, down + item * size * 3), width // 7, 1, size, ink, chance)
    while down < height - 5 * size:
        if kind == "chat":
            lines, wide = chance.randint(1, 4), int(across * chance.uniform(0.4, 0.75))
            start = left if chance.random() < 0.5 else left + across - wide
            tall = int(lines * size * 1.35) + size
            bubble = (
                faint if start == left else chance.choice(((30, 110, 220), (35, 150, 90), (110, 70, 180)))
            )
            pen.rounded_rectangle((start, down, start + wide, down + tall), size // 2, fill=bubble)
            write(pen, (start + size // 2, down + size // 2), wide - size, lines, size, ink, chance)
            down += tall + size // 2
        elif kind == "list":
            tint = tuple(chance.randrange(60, 220) for _ in range(3))
            pen.ellipse((left, down, left + 3 * size, down + 3 * size), fill=tint)
            write(pen, (left + 4 * size, down), across // 2, 1, size, ink, chance)
            write(pen, (left + 4 * size, down + int(size * 1.5)), across * 2 // 3, 1, size - 2, ink, chance)
            down += 4 * size
            pen.line((left, down - size // 2, left + across, down - size // 2), fill=faint)
        elif kind == "form":
            write(pen, (left, down), across // 2, 1, size, ink, chance)
            pen.rectangle((left, down + 2 * size, left + across, down + 4 * size), outline=faint, width=2)
            down += 5 * size
        else:
            down += write(pen, (left, down), across, chance.randint(1, 7), size, ink, chance) + size
    return shown


def write(
    pen: ImageDraw.ImageDraw,
    place: Size,
    width: int,
    lines: int,
    size: int,
    colour: Colour,
    chance: random.Random,
) -> int:
    """Write some words, and tell how high they are in pixels."""
    font = ImageFont.load_default(size)
    for line in range(lines):
        room = width * (1 if line < lines - 1 else chance.uniform(0.3, 0.9))
        text = ""
        while True:
            word = chance.choice(_WORDS)
            if font.getlength(text + word) > room:
                break
            text += word + " "
        pen.text((place[0], place[1] + int(line * size * 1.35)), text, font=font, fill=colour)
    return int(lines * size * 1.35)


def _clouds(
    noise: np.random.Generator, width: int, height: int, fall: float, contrast: float
) -> NDArray[np.uint8]:
    """Noise whose amplitude falls with this power of the frequency; its colours vary less than its light."""
    down = np.fft.fftfreq(height)[:, np.newaxis] * height
    across = np.fft.rfftfreq(width)[np.newaxis, :] * width
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf
    planes = []
    for fall_off in (fall, fall + 0.4, fall + 0.4):
        phases = noise.uniform(0, 2 * math.pi, frequency.shape)
        plane = np.fft.irfft2(frequency**-fall_off * np.exp(1j * phases), s=(height, width))
        planes.append(plane / plane.std())
    light, warm, green = planes
    base = noise.uniform(60, 190)
    channels = [light + 0.5 * warm, light + 0.5 * green, light - 0.5 * warm]
    return np.clip(np.stack(channels, axis=2) * contrast + base, 0, 255).astype(np.uint8)


def _ground(picture: Image.Image, noise: np.random.Generator, chance: random.Random) -> None:
    """A horizon, a little uneven or tilted, with something else below it."""
    width, height = picture.size
    level = height * chance.uniform(0.4, 0.8)
    steps = np.cumsum(noise.normal(0, chance.uniform(0.2, 6), 30)) + np.linspace(
        0, chance.uniform(-40, 40), 30
    )
    ridge = [(width * step / 29, level + rise) for step, rise in enumerate(steps.tolist())]
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).polygon([*ridge, (width, height), (0, height)], fill=255)
    below = _clouds(noise, width, height, chance.uniform(0.8, 1.6), chance.uniform(15, 45))
    picture.paste(Image.fromarray(below), (0, 0), mask)


def _object(picture: Image.Image, noise: np.random.Generator, chance: random.Random) -> None:
    """Something with a surface and an outline, near or far, in focus or not."""
    width, height = picture.size
    across, down = (int(side * chance.uniform(0.06, 0.5)) for side in picture.size)
    left, top = (
        chance.randint(-across // 2, width - across // 2),
        chance.randint(-down // 2, height - down // 2),
    )
    mask = Image.new("L", (across, down))
    pen = ImageDraw.Draw(mask)
    match chance.choice(("ellipse", "polygon", "polygon", "box", "blob")):
        case "ellipse":
            pen.ellipse((0, 0, across - 1, down - 1), fill=255)
        case "box":
            pen.rectangle((across // 12, down // 12, across, down), fill=255)
            mask = mask.rotate(chance.uniform(-30, 30))
        case "polygon":
            corners = [
                (chance.uniform(0, across), chance.uniform(0, down)) for _ in range(chance.randint(3, 7))
            ]
            pen.polygon(corners, fill=255)
        case _:
            shape = Image.fromarray(noise.integers(0, 256, (5, 5), np.uint8))
            mask = shape.resize((across, down), Image.Resampling.BICUBIC).point(
                lambda level: 255 * (level > 128)
            )
    mask = mask.filter(ImageFilter.GaussianBlur(chance.choice((0.6, 0.6, 1, 4))))
    surface = _clouds(noise, max(8, across), max(8, down), chance.uniform(0.9, 2), chance.uniform(6, 45))
    picture.paste(Image.fromarray(surface).resize((across, down)), (left, top), mask)


def _table(
    pen: ImageDraw.ImageDraw, place: Size, width: int, height: int, ink: Colour, chance: random.Random
) -> int:
    left, top = place
    rows, columns = chance.randint(3, 9), chance.randint(2, 6)
    for row in range(rows + 1):
        pen.line((left, top + row * height // rows, left + width, top + row * height // rows), fill=ink)
    for column in range(columns + 1):
        pen.line(
            (left + column * width // columns, top, left + column * width // columns, top + height), fill=ink
        )
    size = max(9, height // rows // 2)
    for row in range(rows):
        for column in range(columns):
            corner = (left + column * width // columns + 4, top + row * height // rows + 3)
            write(pen, corner, width // columns - 8, 1, size, ink, chance)
    return height


def _chart(
    pen: ImageDraw.ImageDraw, place: Size, width: int, height: int, ink: Colour, chance: random.Random
) -> int:
    left, top = place
    pen.line((left, top, left, top + height, left + width, top + height), fill=ink, width=2)
    bars = chance.randint(4, 12)
    tint = tuple(chance.randrange(30, 200) for _ in range(3))
    if chance.random() < 0.5:
        for bar in range(bars):
            start, tall = left + 6 + bar * width // bars, chance.uniform(0.1, 0.95) * height
            pen.rectangle((start, top + height - tall, start + width // bars // 2, top + height), fill=tint)
    else:
        points = [(left + point * width / bars, top + chance.random() * height) for point in range(bars + 1)]
        pen.line(points, fill=tint, width=3)
    return height
