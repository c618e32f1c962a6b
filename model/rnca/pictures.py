"""Pictures of a repair: overlays, an animation of the steps, contact sheets. Needs Pillow only."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from .files import atomic_path

KEPT, ADDED, REMOVED = (38, 166, 154), (118, 255, 3), (255, 61, 90)
"""Overlay colours: in both masks, only after, only before."""

Picture = NDArray[np.uint8]  # (H, W, 3)


def grey(image: NDArray[np.generic]) -> Picture:
    """(H, W) or (H, W, C) intensities -> (H, W, 3): the 1st to 99th percentile spread over 0..255."""
    pixels = np.asarray(image, np.float32)
    pixels = (
        pixels[..., :3]
        if pixels.ndim == 3 and pixels.shape[-1] >= 3
        else pixels.reshape(*pixels.shape[:2], -1)[..., :1]
    )
    finite = pixels[np.isfinite(pixels)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 0.0)
    scaled = np.nan_to_num((pixels - low) / (high - low if high > low else 1), nan=0.0)
    return np.broadcast_to((scaled.clip(0, 1) * 255).astype(np.uint8), (*pixels.shape[:2], 3)).copy()


def overlay(picture: Picture, before: NDArray[np.bool_], after: NDArray[np.bool_], strength: float = 0.55) -> Picture:
    """Colour what is in both masks, what was added and what was removed, over a picture of the same size."""
    out = picture.astype(np.float32)
    for part, colour in ((before & after, KEPT), (after & ~before, ADDED), (before & ~after, REMOVED)):
        out[part] = out[part] * (1 - strength) + np.array(colour, np.float32) * strength
    return out.astype(np.uint8)


def enlarge(picture: Picture, edge: int) -> Picture:
    """Repeat pixels a whole number of times so that the longer side comes near `edge`; shrink if it is larger."""
    longest = max(picture.shape[:2])
    if longest > edge:
        size = [max(1, round(n * edge / longest)) for n in picture.shape[1::-1]]
        return np.asarray(Pillow.fromarray(picture).resize((size[0], size[1]), Pillow.Resampling.BOX))
    factor = max(1, edge // longest)
    return picture.repeat(factor, 0).repeat(factor, 1)


def busiest_slice(before: NDArray[np.bool_], after: NDArray[np.bool_], axis: int = 0) -> int:
    """The slice along `axis` in which most changed; where nothing did, the one with most of the mask."""
    others = tuple(a for a in range(before.ndim) if a != axis)
    changed = (before ^ after).sum(axis=others)
    return int(np.argmax(changed if changed.any() else after.sum(axis=others)))


def sheet(rows: Sequence[Sequence[Picture]], gap: int = 6) -> Picture:
    """Pictures in rows on a white sheet, each row as high as its highest."""
    widths = [sum(p.shape[1] for p in row) + gap * (len(row) + 1) for row in rows]
    heights = [max(p.shape[0] for p in row) for row in rows]
    out = np.full((sum(heights) + gap * (len(rows) + 1), max(widths), 3), 255, np.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        left = gap
        for picture in row:
            out[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + gap
        top += height + gap
    return out


def caption(picture: Picture, *lines: str, size: int = 15) -> Picture:
    """The picture on white with lines of text above it, widened if they need it."""
    font = ImageFont.load_default(size)
    width = max(picture.shape[1], *(int(font.getlength(line)) + 4 for line in lines))
    top = len(lines) * (size + 6) + 4
    out = Pillow.new("RGB", (width, top + picture.shape[0]), "white")
    draw = ImageDraw.Draw(out)
    for n, line in enumerate(lines):
        draw.text((2, 2 + n * (size + 6)), line, "black", font)
    out.paste(Pillow.fromarray(picture), (0, top))
    return np.asarray(out)


def write_png(picture: Picture, path: str | Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        Pillow.fromarray(picture).save(temporary, format="PNG")


def write_gif(frames: Sequence[Picture], path: str | Path, milliseconds: int = 70, hold: int = 1500) -> None:
    """Write an animation that rests `hold` ms on its first and last frame and repeats, whole or not at all."""
    some = np.concatenate([*frames[:: 1 + len(frames) // 6], frames[-1]])
    # one palette for all frames, and one that covers all colours: the few pixels of a first change keep theirs
    palette = Pillow.fromarray(some).quantize(256, Pillow.Quantize.MAXCOVERAGE)
    first, *others = [Pillow.fromarray(f).quantize(palette=palette, dither=Pillow.Dither.NONE) for f in frames]
    duration = [milliseconds] * len(frames)
    duration[0] = duration[-1] = hold
    with atomic_path(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)


def data_url(picture: Picture, colours: int | None = None) -> str:
    """A PNG as an URL that an HTML page can hold; with a palette of so many colours it is a third of the size."""
    image = Pillow.fromarray(picture)
    if colours:
        image = image.quantize(colours, Pillow.Quantize.MAXCOVERAGE, dither=Pillow.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
