"""Images as people have them: channels first or last, pixels of any type, folders of files; taken by a stated rule.

What is white follows from the type of the pixels and their range:

- booleans: True;
- bytes: 255, but bytes that are all 0 or 1 are refused: 255 would be white, and a mask is rather meant;
- other integers: 1, 255 or 65,535, where the largest pixel is at most 1, at most 255, or above 32,767;
- floats: 1 where they lie in [0, 1]; the range -1 to 1 where some are below 0; 255 where the largest is above 127.

All else is refused, and `white` says what is white instead.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.base.errors import DataError

Colour = Literal["auto", "grey", "colour"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
TOLERANCE = 1e-3  # by which floats may leave [0, 1] through rounding


@dataclass(frozen=True)
class PixelRange:
    """How pixels become intensities: `black` is 0 and `white` is 1.

    Attributes:
        kind: of the type of the pixels, as numpy's `dtype.kind`, `u1` for bytes.
        black, white: the darkest and the brightest value that a pixel can have.
    """

    kind: str
    black: float = 0.0
    white: float = 255.0


def kind_of(images: np.ndarray) -> str:
    """Return the kind of a type of pixels: `u1` for bytes, else numpy's letter, one for all other integers."""
    return "u1" if images.dtype == np.uint8 else "i" if images.dtype.kind == "u" else images.dtype.kind


def pixel_range(images: np.ndarray, source: str, white: float | None = None) -> tuple[PixelRange, str | None]:
    """Work out what is black and what is white, by the rule of this file, and describe it where it is not usual.

    >>> pixel_range(np.array([[[0, 65_000]]], dtype=np.uint16), "mine")
    (PixelRange(kind='i', black=0.0, white=65535.0), 'pixels are integers of 16 bits: 65535 is white')

    Raises:
        DataError: the pixels are no numbers, or nothing can be concluded from their range.
    """
    kind = kind_of(images)
    if kind not in ("u1", "i", "f", "b"):
        raise DataError(f"{source}: pixels must be bytes, integers, booleans or floats, not {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{source}: {int((~np.isfinite(images)).sum())} pixels are NaN or infinite")
    if white is not None:
        if low < 0 or high > white:
            raise DataError(f"{source}: pixels lie in [{low:g}, {high:g}], not between 0 and `white={white:g}`")
        return PixelRange(kind, 0.0, white), f"pixels: {white:g} is white, as `white` says"
    advice = f"give what is white, as `white={_next_white(high):g}`" if low >= 0 else "shift them, so that black is 0"
    advice = f"pixels lie in [{low:g}, {high:g}]: {advice}"
    if kind == "b":
        return PixelRange(kind, 0.0, 1.0), "pixels are booleans: True is white"
    if kind == "u1":
        if high == 1:
            advice = "pixels are bytes of 0 and 1, of which 255 would be white: give `white=1`, if 1 is white"
            raise DataError(f"{source}: {advice}, or multiply by 255")
        return PixelRange(kind), None
    if kind == "i":
        if low < 0 or 255 < high <= 32_767 or high > 65_535:
            raise DataError(f"{source}: {advice}")
        top = 1.0 if high <= 1 else 255.0 if high <= 255 else 65_535.0
        bits = "of 16 bits" if top > 255 else f"of at most {top:g}"
        return PixelRange(kind, 0.0, top), f"pixels are integers {bits}: {top:g} is white"
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        beyond = low < 0 or high > 1
        return PixelRange(kind, 0.0, 1.0), "pixels beyond [0, 1] by rounding are clipped" if beyond else None
    if -1 - TOLERANCE <= low < 0 and high <= 1 + TOLERANCE:
        return PixelRange(kind, -1.0, 1.0), f"pixels lie in [{low:g}, {high:g}]: -1 is black and 1 is white"
    if low >= 0 and 127 < high <= 255 + TOLERANCE:
        return PixelRange(kind), f"pixels are floats of up to {high:g}: 255 is white"
    raise DataError(f"{source}: {advice}; float pixels must lie in [0, 1], [-1, 1] or [0, 255]")


def _next_white(high: float) -> float:
    return next((top for top in (1, 255, 1023, 4095, 16_383, 65_535) if high <= top), high)


def to_bytes(images: np.ndarray, rule: PixelRange, source: str) -> Tensor:
    """Return images as bytes: intensities under a rule, times 255, rounded.

    Raises:
        DataError: a pixel lies outside the rule's range.
    """
    low, high = float(images.min()), float(images.max())
    slack = TOLERANCE * (rule.white - rule.black)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{source}: {int((~np.isfinite(images)).sum())} pixels are NaN or infinite")
    if not (rule.black - slack <= low and high <= rule.white + slack):
        raise DataError(f"{source}: pixels lie in [{low:g}, {high:g}], not between {rule.black:g} and {rule.white:g}")
    if (rule.black, rule.white) == (0.0, 255.0) and images.dtype.kind in "ui":
        return torch.from_numpy(np.ascontiguousarray(images.astype(np.uint8, copy=False)))
    pixels = torch.from_numpy(np.ascontiguousarray(images.astype(np.float32)))
    return pixels.sub_(rule.black).div_(rule.white - rule.black).clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def channels_first(images: np.ndarray, source: str) -> tuple[np.ndarray, str | None]:
    """Return images as [n, channel, height, width], whatever their axes, and what was worked out.

    Of four axes the channels are the second or the last, whichever has 1 or 3 entries, else 2 or 4, else fewer; of two
    alike the second.

    Raises:
        DataError: there are not three or four axes, an axis is empty, or it could be either.
    """
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        axes = "[n, height, width], [n, channel, height, width] or [n, height, width, channel]"
        raise DataError(f"{source}: images must be {axes}, not {list(images.shape)}")
    if images.ndim == 3:
        return images[:, None], None
    first, last = images.shape[1], images.shape[3]
    usual = [2 * (size in (1, 3)) + (size in (2, 4)) for size in (first, last)]
    if usual == [0, 0] and first == last:
        raise DataError(f"{source}: which axis of {list(images.shape)} holds the channels? Give [n, channel, ...]")
    if usual[1] > usual[0] or (usual == [0, 0] and last < first):
        return images.transpose(0, 3, 1, 2), f"the last axis of {list(images.shape)} holds {last} channels"
    if min(usual) > 0:
        return images, f"the second axis of {list(images.shape)} holds {first} channels"
    note = f"{first} channels, taken as they are" + (" (alpha too, if it is RGBA)" if first == 4 else "")
    return images, note if first not in (1, 3) else None


def resized(images: Tensor, size: int) -> Tensor:
    """Resize bytes [n, channel, height, width] to a square: the shorter side to `size`, of the other the centre."""
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    shape = max(size, round(height * scale)), max(size, round(width * scale))
    scaled = F.interpolate(images.float(), size=shape, mode="bilinear", align_corners=False, antialias=True)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return scaled[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)


def coloured(images: Tensor, colour: Colour, source: str) -> Tensor:
    """Return bytes [n, channel, height, width] with 1 channel for `grey`, 3 for `colour`, as they are for `auto`.

    Raises:
        DataError: there are neither 1 nor 3 channels.
    """
    channels = images.shape[1]
    if colour == "auto" or channels == (1 if colour == "grey" else 3):
        return images
    if channels not in (1, 3):
        raise DataError(f"{source}: `colour={colour}` takes images of 1 or 3 channels, not {channels}")
    if colour == "colour":
        return images.expand(-1, 3, -1, -1)
    weights = torch.tensor(LUMA)[:, None, None]
    return (images.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)


def files_of(folder: Path) -> list[Path]:
    """Return the image files below a folder, in the order of their paths; hidden files and folders are left out."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(
        path for path in paths if not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )


def read_files(paths: list[Path], source: str, size: int | None, colour: Colour) -> tuple[Tensor, list[int], list[str]]:
    """Read image files as bytes of one size and number of channels.

    Returns:
        images [n, channel, height, width]; which of the paths they are; what there is to note: unreadable files, say.

    Raises:
        DataError: none can be read, or their sizes differ and no `size` is given.
    """
    read, kept, broken, transparent = [], [], [], 0
    for number, (image, has_alpha) in enumerate(_opened(paths)):
        transparent += has_alpha
        if image is None:
            broken.append(paths[number].name)
        else:
            read.append(coloured(image if size is None else resized(image, size), colour, source))
            kept.append(number)
    listed = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
    notes = [f"{len(broken)} of {len(paths)} files cannot be read and are left out: {listed}"] if broken else []
    if transparent:
        notes.append(
            f"{transparent} of {len(paths)} files have transparency, which is dropped: their colours alone are read"
        )
    if not read:
        raise DataError(f"{source}: none of the {len(paths)} image files can be read: they are damaged, or of 32 bits")
    sizes = Counter(tuple(image.shape[-2:]) for image in read)
    if len(sizes) > 1:
        (height, width), count = sizes.most_common(1)[0]
        usual = f"{count} of {len(read)} are {height} x {width}"
        raise DataError(f"{source}: images of {len(sizes)} sizes ({usual}): give `size={min(min(s) for s in sizes)}`")
    if len({image.shape[1] for image in read}) > 1:
        read = [coloured(image, "colour", source) for image in read]
        notes.append("grey and coloured images: all are read as coloured")
    return torch.cat(read), kept, notes


def _opened(paths: list[Path]) -> Iterator[tuple[Tensor | None, bool]]:
    """Yield each file as bytes [1, 1 or 3 channels, height, width], or None, and whether any of it is transparent."""
    from PIL import Image, ImageOps

    for path in paths:
        try:
            with warnings.catch_warnings(), Image.open(path) as file:
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                upright = ImageOps.exif_transpose(file)
                has_alpha = upright.has_transparency_data and bool(
                    (np.asarray(upright.convert("RGBA"))[..., 3] < 255).any()
                )
                if upright.mode == "F" or (upright.mode == "I" and file.format != "PNG"):
                    raise ValueError("what is white is not known")  # as of integers of 32 bits
                if upright.mode.startswith("I"):  # 16 bits
                    pixels = np.asarray(upright).astype(np.float32)[:, :, None] / 257
                elif upright.mode in ("L", "1", "LA"):
                    pixels = np.asarray(upright.convert("L"))[:, :, None]
                else:
                    pixels = np.asarray(upright.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError):
            yield None, False
            continue
        rounded = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        yield torch.from_numpy(np.ascontiguousarray(rounded.transpose(2, 0, 1)))[None], has_alpha
