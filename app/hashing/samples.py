"""Tiny drawn pictures in every format that is decoded, to warm the decoders with before the lock.

Most are encoded when asked for. HEIC and AVIF are shipped as bytes, since their encoders start threads.
"""

import base64
import io
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image

HEIC: Final = base64.b64decode(
    b"AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAA"
    b"AAAAACJpbG9jAAAAAERAAAEAAQAAAAABegABAAAAAAAAAMYAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAA"
    b"AA5waXRtAAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNw"
    b"AAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHB"
    b"crAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAA"
    b"AAABAAEEgQIDBAAAAM5tZGF0AAAAwigBrxmApEV6YZoXHW2qmqit3dLLqD86c4z8QeFW/mXolgBruW2ycwMm0pVfzWcffE9Q"
    b"CjcKXqouYt8sCIeJhvGAvNeLRGmZEKiE9H6KLfdLUi3+gI7v6fra2/r1TukKNkBnX5IwmR4IREkou5Nyik96XimDm7HIKM3j"
    b"tGEoVPFL2sYLZic+mISQWYSJw7RFatA/3+eg3EPJe+/77XyExRnMx15gaWJ056my4TLWzv99E9iw3OOZSDauClmEqCknLoUY"
)
"""64 by 64 pixels, by pillow_heif."""

AVIF: Final = base64.b64decode(
    b"AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAA"
    b"AAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAYAAAAChpaW5mAAAAAAABAAAAGmluZmUC"
    b"AAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAIAAAACAAAAAQcGl4aQAAAAADCAgIAAAA"
    b"DGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAaG1kYXQSAAoJGBE/9ogIaDQg"
    b"MlEcR4eF3dNNNMLFAQDE3wZrNOI1lqR2IjJELLtLk2yiA/orSB8QQPstJzRpi4dwWzmv/UdocyHBwxHVenMjdhqcaWVvgEAR"
    b"lzO8LXkiji71PDA="
)
"""32 by 32 pixels, by Pillow."""

AVIF_SEQUENCE: Final = base64.b64decode(
    b"AAAALGZ0eXBhdmlzAAAAAGF2aWZhdmlzbXNmMWlzbzhtaWYxbWlhZk1BMUIAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAA"
    b"cGljdAAAAAAAAAAAAAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAPlAAAAXQAAAChpaW5mAAAA"
    b"AAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAIAAAACAAAAAQcGl4"
    b"aQAAAAADCAgIAAAADGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAACxm1vb3YA"
    b"AAB4bXZoZAEAAAAAAAAA5yh0KQAAAADnKHQpAAAD6P//////////AAEAAAEAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAA"
    b"AQAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAJGdHJhawAAAGh0a2hkAQAAAQAAAADn"
    b"KHQpAAAAAOcodCkAAAABAAAAAP//////////AAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAA"
    b"AAAAQAAAAAAgAAAAIAAAAAAALGVkdHMAAAAkZWxzdAEAAAEAAAABAAAAAAAAAAIAAAAAAAAAAAABAAAAAAGqbWRpYQAAACxt"
    b"ZGhkAQAAAAAAAADnKHQpAAAAAOcodCkAAAPoAAAAAAAAAAJVxAAAAAAAIWhkbHIAAAAAAAAAAHBpY3QAAAAAAAAAAAAAAAAA"
    b"AAABVW1pbmYAAAAUdm1oZAAAAAEAAAAAAAAAAAAAACRkaW5mAAAAHGRyZWYAAAAAAAAAAQAAAAx1cmwgAAAAAQAAARVzdGJs"
    b"AAAAlXN0c2QAAAAAAAAAAQAAAIVhdjAxAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAACAAIABIAAAASAAAAAAAAAABCkFPTSBD"
    b"b2RpbmcAAAAAAAAAAAAAAAAAAAAAAAAAAAAAGP//AAAADGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAGgAAAABBjY3N0AAAA"
    b"AHwAAAAAAAAYc3R0cwAAAAAAAAABAAAAAgAAAAEAAAAcc3RzYwAAAAAAAAABAAAAAQAAAAIAAAABAAAAHHN0c3oAAAAAAAAA"
    b"AAAAAAIAAABdAAAATAAAABRzdGNvAAAAAAAAAAEAAAPlAAAAFHN0c3MAAAAAAAAAAQAAAAEAAACxbWRhdBIACg0AAAACJ/5t"
    b"fIgIaDQgMkoQANeAYYAAKLAIvGtiy8EedzhKqBSW4Or46gDbQO8K/z/ZP/62Kx1uaEpKLusZ0Och+C5Qugpy4GziTmmQJ3Dm"
    b"4BEyNHQ3iFPVjxIAMkgwA8CAAAAG2ACCAAAosAIAuH78l/WT6tZ/T26LgSsbjgY6AWqPU9pmIxDI0348xMnL5iRVNJwtHmuC"
    b"mepxZRH+WDbtf8WM4oA="
)
"""Two frames of 32 by 32 pixels, by Pillow."""


def every() -> Iterator[bytes]:
    """A sample of each format, and of each pixel mode that takes a way of its own."""
    across = Image.linear_gradient("L").resize((32, 32))
    rgb = Image.merge("RGB", (across, across.rotate(90), across.rotate(180)))
    upside_down = rgb.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    translucent = rgb.copy()
    translucent.putalpha(across)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield from (HEIC, AVIF, AVIF_SEQUENCE)
    yield _encoded(rgb, "JPEG", exif=exif)
    yield _encoded(rgb, "JPEG", progressive=True)
    yield _encoded(rgb.convert("CMYK"), "JPEG")
    yield _encoded(rgb, "MPO", save_all=True, append_images=[upside_down])
    yield _encoded(rgb, "BMP")
    for still in (rgb, translucent, rgb.convert("P"), across, across.convert("1"), across.convert("I;16")):
        yield _encoded(still, "PNG")
    yield _encoded(translucent, "PNG", save_all=True, append_images=[upside_down.convert("RGBA")])
    yield _encoded(rgb, "GIF", save_all=True, append_images=[upside_down])
    yield _encoded(rgb, "WEBP", exif=exif)
    yield _encoded(translucent, "WEBP", lossless=True)
    yield _encoded(rgb, "WEBP", save_all=True, append_images=[upside_down])
    yield _encoded(rgb, "TIFF", save_all=True, append_images=[across])
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd", "lzma"):
        yield _encoded(rgb, "TIFF", compression=compression)
    for mode in ("CMYK", "YCbCr", "LAB", "RGBA", "LA", "P", "1", "I", "F", "I;16"):
        grey = mode in ("LA", "1", "I", "F", "I;16")
        yield _encoded((across if grey else rgb).convert(mode), "TIFF")
    yield _encoded(across.convert("1"), "TIFF", compression="group4")
    # Its constant hash makes PDQ ask the reference.
    yield _encoded(Image.new("RGB", (32, 32)), "PNG")


def _encoded(picture: Image.Image, encoder: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    encoded = io.BytesIO()
    # A copy, since an encoder leaves its settings on the picture, where the next one trips over them.
    picture.copy().save(encoded, encoder, **options)
    return encoded.getvalue()
