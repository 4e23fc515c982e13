"""Image files to pixels, with Pillow and NumPy alone: data loading workers import this and no more."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from sdbench.bounded import open_plain
from sdbench.data.facts import Pixels
from sdbench.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TAIL_BYTES = 16
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""What files may hold, whatever they are called: of Pillow's other readers some start programs (EPS, Ghostscript)."""
MAX_PIXELS = 2**26
"""Of one image: 8,192 x 8,192, which takes 200 MB. A few kilobytes of PNG can declare, and fill, any number."""
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class TooLarge(ValueError):
    """A view of an image would take more than ``MAX_PIXELS`` on the way."""


def unreadable(path: Path, reason: object) -> UserError:
    """What to say of a file that is not a whole image."""
    return UserError(
        f"{path}: expected a whole image, found one that cannot be decoded ({reason}); "
        "replace the file or remove it, then run the command again"
    )


def too_large(path: Path, reason: TooLarge) -> UserError:
    """What to say of an image that is whole, but of which a view cannot be made."""
    return UserError(
        f"{path}: expected an image that can be shown within {MAX_PIXELS} pixels, found one of {reason}; crop it, "
        "remove it or give a smaller --image-size, then run the command again"
    )


def read_image(path: Path, content: bytes | None = None) -> Image.Image:
    """The decoded RGB image of a file; ``content`` are its bytes where they have been read already.

    Gray, palette and transparent images are converted (transparency is dropped, as torchvision's
    ImageFolder does); the orientation tag of photographs is not applied, as there. UserError
    naming the file where it is not a whole image.
    """
    try:
        with _opened(path, content) as image:
            if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
                return image.convert("RGBA").convert("RGB")  # the direct way warns
            return image.convert("RGB")
    except _BROKEN as error:
        raise unreadable(path, error) from error


def image_size(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """(height, width) from the header of an image file; the pixels are not decoded."""
    try:
        with _opened(path, content) as image:
            return image.height, image.width
    except _BROKEN as error:
        raise unreadable(path, error) from error


@contextlib.contextmanager
def _opened(path: Path, content: bytes | None) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet, of a size that can be."""
    with contextlib.ExitStack() as stack:
        # Its own remark on large images: the limit here is below the one at which it speaks.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        source = stack.enter_context(open_plain(path)) if content is None else BytesIO(content)
        image = stack.enter_context(Image.open(source, formats=FORMATS))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height}, more than {MAX_PIXELS} pixels")
        yield image


def looks_whole(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file's first and last bytes are those of a complete JPEG, PNG or WebP file.

    head, tail: the first and last ``TAIL_BYTES`` or more. size: bytes of the file. False means only
    that the file has to be decoded to be sure; a cut-off download is always False.
    """
    if head[:2] == b"\xff\xd8":
        return tail[-2:] == b"\xff\xd9"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return tail[-8:-4] == b"IEND"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 == size
    return False


def to_pixels(image: Image.Image) -> Pixels:
    """A writable uint8 array [H, W, 3] of an RGB image."""
    return np.array(image, dtype=np.uint8)


def scaled(image: Image.Image, size: int) -> Image.Image:
    """The image at ``size`` x ``size``: bilinear with antialiasing; itself if it has that size. Raises TooLarge."""
    return _resized(image, size, size)


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Rows are scaled before columns: of a few wide pixels, many high, that alone may fill the memory."""
    if image.size == (width, height):
        return image
    if width * max(height, image.height) > MAX_PIXELS:
        raise TooLarge(f"{image.width}x{image.height}, for which {width}x{max(height, image.height)} would be made")
    return image.resize((width, height), Image.Resampling.BILINEAR)


def cropped(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    """The box (top, left, height, width) of the image, scaled to ``size`` x ``size``."""
    top, left, height, width = box
    return scaled(image.crop((left, top, left + width, top + height)), size)


def central(image: Image.Image, size: int) -> Image.Image:
    """The usual test view: the shorter side scaled to 256/224 of ``size``, then the central square.

    As torchvision's ``Resize(size * 256 // 224)`` and ``CenterCrop(size)``: the longer side is
    rounded down, half pixels of the crop's corner to the nearest even number. Raises TooLarge where
    the image is so long and narrow that, scaled, it has more than ``MAX_PIXELS``.
    """
    short = max(size, size * 256 // 224)
    if image.width <= image.height:
        width, height = short, int(short * image.height / image.width)
    else:
        width, height = int(short * image.width / image.height), short
    image = _resized(image, width, height)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def resize_pixels(pixels: Pixels, size: int) -> Pixels:
    """Images [N, S, S, 3] at [N, size, size, 3], one by one as ``scaled`` does it, so that the
    result does not depend on which images are resized together."""
    if pixels.shape[1] == size:
        return pixels
    resized = np.empty((len(pixels), size, size, 3), np.uint8)
    for target, image in zip(resized, pixels, strict=True):
        target[:] = to_pixels(scaled(Image.fromarray(image), size))
    return resized
