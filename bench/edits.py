"""What people do to a picture, drawn by code: what plain PDQ sees through, and what it does not.

Each edit takes a picture, others to put beside it, and a source of chance, and gives the edited picture.
"""

import io
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from bench.pictures import Colour, write

Edit = Callable[[Image.Image, Sequence[Image.Image], random.Random], Image.Image]

_DARK: Final[Sequence[Colour]] = ((0, 0, 0), (18, 18, 18), (32, 33, 36), (21, 32, 43))
_LIGHT: Final[Sequence[Colour]] = ((255, 255, 255), (250, 250, 250), (240, 242, 245))
_LONGEST: Final = 1200


def encode(picture: Image.Image, encoder: str = "JPEG", **options: Any) -> bytes:  # noqa: ANN401 - the encoder's
    """A picture as a file; a JPEG of quality 85 unless told otherwise."""
    if encoder == "JPEG":
        options = {"quality": 85, **options}
    file = io.BytesIO()
    picture.save(file, encoder, **options)
    return file.getvalue()


def border(share: float) -> Edit:
    """A border of one colour on all sides, as wide as this share of the shorter side."""

    def edit(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
        width = max(2, round(min(picture.size) * share))
        return ImageOps.expand(picture, width, _any_colour(chance))

    return edit


def letterbox(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """Bars above and below."""
    high = round(picture.height * chance.uniform(0.08, 0.3))
    return ImageOps.expand(picture, (0, high), _bar_colour(chance))


def pillarbox(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """Bars on the left and on the right."""
    wide = round(picture.width * chance.uniform(0.08, 0.3))
    return ImageOps.expand(picture, (wide, 0), _bar_colour(chance))


def caption(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """A bar with words above or below."""
    dark = chance.random() < 0.4
    size, lines = max(10, picture.width // chance.randint(16, 28)), chance.randint(1, 3)
    high = int(size * 1.35 * lines + size * 1.2)
    shown = Image.new(
        "RGB", (picture.width, picture.height + high), (10, 10, 10) if dark else (255, 255, 255)
    )
    above = chance.random() < 0.5
    shown.paste(picture, (0, high if above else 0))
    ink = (240, 240, 240) if dark else (0, 0, 0)
    place = (size // 2, size // 2 + (0 if above else picture.height))
    write(ImageDraw.Draw(shown), place, picture.width - size, lines, size, ink, chance)
    return shown


def post(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """A screenshot of a telephone that shows a post, as wide as the screen or nearly."""
    margin = 0 if chance.random() < 0.7 else chance.randint(1, 3)
    return _telephone(picture, chance, margin, 1.0, bubble=False)


def chat(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """A screenshot of a telephone that shows a message with the picture in its bubble."""
    return _telephone(picture, chance, chance.randint(1, 3), chance.uniform(0.6, 0.8), bubble=True)


def gallery(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """A screenshot of a telephone that shows the picture alone, with a bar above and one below."""
    back = chance.choice((*_DARK, *_LIGHT))
    ink: Colour = (230, 230, 230) if sum(back) < 300 else (20, 20, 20)
    width = chance.choice((720, 1080, 1170))
    height, unit = int(width * chance.uniform(1.78, 2.17)), width // 36
    shown = Image.new("RGB", (width, height), back)
    fitted = _fitted(picture, width, int(height * 0.72))
    shown.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    _telephone_bars(ImageDraw.Draw(shown), shown.size, unit, ink)
    return shown


def browser(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """A screenshot of a computer that shows a page with the picture among text."""
    dark = chance.random() < 0.5
    back = chance.choice(_DARK if dark else _LIGHT)
    ink: Colour = (230, 230, 230) if dark else (20, 20, 20)
    bar: Colour = (60, 62, 66) if dark else (222, 225, 230)
    width, height = chance.choice(((1366, 768), (1920, 1080), (1440, 900)))
    unit = width // 90
    shown = Image.new("RGB", (width, height), back)
    pen = ImageDraw.Draw(shown)
    pen.rectangle((0, 0, width, unit * 6), fill=bar)
    pen.rounded_rectangle((unit, unit // 2, unit * 18, unit * 3), unit // 2, fill=back)
    write(pen, (unit * 2, unit), unit * 14, 1, unit, ink, chance)
    pen.rounded_rectangle((unit * 12, int(unit * 3.4), width - unit * 12, int(unit * 5.6)), unit, fill=back)
    write(pen, (unit * 14, int(unit * 3.9)), unit * 30, 1, unit, ink, chance)
    left = unit * 6
    if chance.random() < 0.6:
        left = unit * 18
        for row in range(chance.randint(5, 14)):
            write(pen, (unit * 3, unit * (8 + row * 3)), unit * 10, 1, unit, ink, chance)
    fitted = _fitted(
        picture, width - left - unit * chance.choice((4, 24)), height - unit * (8 + chance.randint(4, 14))
    )
    shown.paste(fitted, (left, unit * 8))
    below = unit * 9 + fitted.height
    lines = min(8, int((height - below - unit) // (unit * 1.6)))
    write(pen, (left, below), min(fitted.width, width - left - unit), lines, int(unit * 1.15), ink, chance)
    beside = left + fitted.width + unit * 2
    if width - beside > unit * 18:
        lines = chance.randint(3, 20)
        write(pen, (beside, unit * 9), width - beside - unit * 2, lines, int(unit * 1.1), ink, chance)
    return shown


def player(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """A frame of a video player: black around the picture, and controls below."""
    width, height, bar = 1280, 720, 90
    shown = Image.new("RGB", (width, height + bar))
    fitted = _fitted(picture, width, height)
    shown.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    pen = ImageDraw.Draw(shown)
    pen.rectangle((0, height, width, height + bar), fill=(24, 24, 24))
    pen.rectangle((20, height + 15, width - 20, height + 21), fill=(90, 90, 90))
    pen.rectangle((20, height + 15, 20 + chance.randint(50, 1000), height + 21), fill=(255, 0, 0))
    pen.polygon([(30, height + 40), (30, height + 75), (60, height + 58)], fill=(240, 240, 240))
    write(pen, (90, height + 45), 200, 1, 24, (240, 240, 240), chance)
    return shown


def paused(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """A page with a paused video: its controls lie over the picture and over the bars beside it."""
    dark = chance.random() < 0.5
    back = chance.choice(_DARK if dark else _LIGHT)
    ink: Colour = (230, 230, 230) if dark else (20, 20, 20)
    shown = Image.new("RGB", chance.choice(((1280, 720), (1366, 768), (1440, 900))), back)
    pen = ImageDraw.Draw(shown)
    left, top, width, height = 20, 56, 860, 484
    write(pen, (left, 20), 300, 1, 18, ink, chance)
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=(0, 0, 0))
    fitted = _fitted(picture, width, height)
    shown.paste(fitted, (left + (width - fitted.width) // 2, top + (height - fitted.height) // 2))
    line = top + height - 40
    pen.rectangle((left + 12, line, left + width - 12, line + 3), fill=(119, 119, 119))
    pen.rectangle((left + 12, line, left + chance.randint(60, width - 60), line + 3), fill=(255, 0, 0))
    pen.polygon(
        [(left + 20, line + 12), (left + 20, line + 30), (left + 36, line + 21)], fill=(240, 240, 240)
    )
    write(pen, (left + 60, line + 12), 150, 1, 16, (240, 240, 240), chance)
    write(pen, (left, top + height + 14), width - 40, 2, 18, ink, chance)
    for row in range(6):
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        pen.rectangle((900, top + row * 104, 1068, top + row * 104 + 94), fill=colour)
        write(pen, (1080, top + row * 104 + 6), 180, 2, 14, ink, chance)
    return shown


def collage(side: int) -> Edit:
    """As many pictures across as down, all of one shape, with gaps between them or without."""

    def edit(picture: Image.Image, others: Sequence[Image.Image], chance: random.Random) -> Image.Image:
        scale = min(1, _LONGEST / (picture.width * side))
        width, height = round(picture.width * scale), round(picture.height * scale)
        gap = chance.choice((0, 0, max(2, width // 60), max(3, width // 30)))
        size = side * width + (side + 1) * gap, side * height + (side + 1) * gap
        shown = Image.new("RGB", size, _any_colour(chance))
        cells = [picture.resize((width, height), Image.Resampling.LANCZOS)]
        cells += [ImageOps.fit(other, (width, height)) for other in others[: side * side - 1]]
        chance.shuffle(cells)
        for place, cell in enumerate(cells):
            row, column = divmod(place, side)
            shown.paste(cell, (gap + column * (width + gap), gap + row * (height + gap)))
        return shown

    return edit


def crop(share: float) -> Edit:
    """A share of the width and of the height cut away, in all."""

    def edit(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
        across, down = (round(side * share) for side in picture.size)
        left, top = chance.randint(0, across), chance.randint(0, down)
        return picture.crop((left, top, left + picture.width - across, top + picture.height - down))

    return edit


def rotation(degrees: float) -> Edit:
    """Turned a little, the corners filled with black."""

    def edit(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
        return picture.rotate(degrees * chance.choice((-1, 1)), Image.Resampling.BICUBIC)

    return edit


def sticker(picture: Image.Image, _: Sequence[Image.Image], chance: random.Random) -> Image.Image:
    """Something opaque over a ninth of it."""
    shown = picture.copy()
    width, height = picture.width // 3, picture.height // 3
    left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
    ImageDraw.Draw(shown).ellipse((left, top, left + width, top + height), fill=_any_colour(chance))
    return shown


def _simple(operation: Callable[[Image.Image], Image.Image]) -> Edit:
    return lambda picture, _others, _chance: operation(picture)


def _turn(method: Image.Transpose) -> Edit:
    return _simple(lambda picture: picture.transpose(method))


SYMMETRIES: Final[Mapping[str, Edit]] = {
    "flipped left to right": _turn(Image.Transpose.FLIP_LEFT_RIGHT),
    "flipped top to bottom": _turn(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned by 90°": _turn(Image.Transpose.ROTATE_90),
    "turned by 180°": _turn(Image.Transpose.ROTATE_180),
    "turned by 270°": _turn(Image.Transpose.ROTATE_270),
    "flipped and turned": _turn(Image.Transpose.TRANSPOSE),
    "negative": _simple(ImageOps.invert),
    "negative, flipped": _simple(lambda picture: ImageOps.mirror(ImageOps.invert(picture))),
}

FRAMES: Final[Mapping[str, Edit]] = {
    "border of 2 %": border(0.02),
    "border of 5 %": border(0.05),
    "border of 10 %": border(0.1),
    "letterbox": letterbox,
    "pillarbox": pillarbox,
    "caption bar": caption,
    "screenshot: post": post,
    "screenshot: chat": chat,
    "screenshot: gallery": gallery,
    "screenshot: browser": browser,
    "video player": player,
    "paused video on a page": paused,
    "collage of 2 by 2": collage(2),
    "contact sheet of 3 by 3": collage(3),
    "border of 5 %, flipped": lambda picture, others, chance: ImageOps.mirror(
        border(0.05)(picture, others, chance)
    ),
}

DEGRADATIONS: Final[Mapping[str, Edit]] = {
    "half size": _simple(lambda picture: picture.reduce(2)),
    "grey": _simple(lambda picture: picture.convert("L")),
    "mild blur": _simple(lambda picture: picture.filter(ImageFilter.GaussianBlur(2))),
}

EVASIONS: Final[Mapping[str, Edit]] = {
    "crop of 2 %": crop(0.02),
    "crop of 5 %": crop(0.05),
    "crop of 10 %": crop(0.1),
    "rotated by 2°": rotation(2),
    "rotated by 5°": rotation(5),
    "sticker over a ninth": sticker,
}

ENCODINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "JPEG, quality 90": {"encoder": "JPEG", "quality": 90},
    "JPEG, progressive": {"encoder": "JPEG", "quality": 85, "progressive": True},
    "PNG": {"encoder": "PNG"},
    "WebP": {"encoder": "WEBP", "quality": 80},
    "AVIF": {"encoder": "AVIF", "quality": 70, "speed": 10},
    "TIFF": {"encoder": "TIFF"},
    "BMP": {"encoder": "BMP"},
    "JPEG, quality 30": {"encoder": "JPEG", "quality": 30},
}


def _any_colour(chance: random.Random) -> Colour:
    other = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
    return chance.choice(((255, 255, 255), (0, 0, 0), (250, 250, 250), (18, 18, 18), other))


def _bar_colour(chance: random.Random) -> Colour:
    return (0, 0, 0) if chance.random() < 0.75 else _any_colour(chance)


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """As large as fits, in its own shape."""
    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _telephone(
    picture: Image.Image, chance: random.Random, margin: int, share: float, *, bubble: bool
) -> Image.Image:
    dark = chance.random() < 0.5
    back = chance.choice(_DARK if dark else _LIGHT)
    ink: Colour = (230, 230, 230) if dark else (20, 20, 20)
    width = chance.choice((720, 1080, 1170))
    height, unit = int(width * chance.uniform(1.78, 2.17)), width // 36
    shown = Image.new("RGB", (width, height), back)
    pen = ImageDraw.Draw(shown)
    _telephone_bars(pen, shown.size, unit, ink)
    pen.line((0, unit * 3, width, unit * 3), fill=(140, 140, 140))
    pen.ellipse((unit, int(unit * 3.6), unit * 4, int(unit * 6.6)), fill=(200, 90, 60))
    write(pen, (unit * 5, int(unit * 3.8)), width // 2, 1, int(unit * 1.2), ink, chance)
    write(pen, (unit * 5, int(unit * 5.3)), width // 3, 1, unit, (140, 140, 140), chance)
    fitted = _fitted(picture, int((width - 2 * margin * unit) * share), int(height * 0.72))
    left = margin * unit if bubble else (width - fitted.width) // 2
    top = unit * 7 + chance.randint(0, unit * 2)
    if bubble:
        edge = unit // 3
        box = (left - edge, top - edge, left + fitted.width + edge, top + fitted.height + edge)
        pen.rounded_rectangle(box, unit // 2, fill=(60, 70, 80) if dark else (225, 245, 220))
    shown.paste(fitted, (left, top))
    below = top + fitted.height + unit
    if below < height - unit * 6:
        for icon in range(3):
            box = (unit + icon * unit * 4, below, unit * 3 + icon * unit * 4, below + 2 * unit)
            pen.ellipse(box, outline=ink, width=max(2, unit // 8))
        room = int((height - unit * 7 - below) // (unit * 1.6))
        lines = min(room, chance.randint(1, 9))
        write(pen, (unit, below + 3 * unit), width - 2 * unit, lines, int(unit * 1.15), ink, chance)
    return shown


def _telephone_bars(pen: ImageDraw.ImageDraw, size: tuple[int, int], unit: int, ink: Colour) -> None:
    width, height = size
    write(pen, (unit, unit // 2), unit * 6, 1, int(unit * 1.2), ink, random.Random(0))
    for icon in range(3):
        right = width - unit * (2 * icon + 2)
        pen.rectangle((right - unit, int(unit * 0.7), right, int(unit * 1.6)), fill=ink)
    pen.line((0, height - unit * 3, width, height - unit * 3), fill=(140, 140, 140))
    for button in range(4):
        middle = width * (2 * button + 1) // 8
        box = (middle - unit // 2, height - unit * 2, middle + unit // 2, height - unit)
        pen.rectangle(box, outline=ink, width=max(2, unit // 8))
