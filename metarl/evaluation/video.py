"""Captions, panels side by side, and the video file."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.errors import RenderError

Colour = tuple[int, int, int]
SEPARATOR = (255, 255, 255)
QUALITY = 23  # libx264's constant rate factor; about as sharp as 20 with its macroblock tree, which is not used
PALETTE_FRAMES = 8  # a GIF's one palette is chosen from this many of its frames
PRESET = "veryfast"  # libx264's: files are as small as by its default, in half the time
ENCODERS = ("libx264", "libopenh264")  # PyAV's own wheels have the first


def caption(frame: np.ndarray, lines: list[str], size: int | None = None) -> np.ndarray:
    """A copy of a frame (height, width, 3) uint8 with lines of text on a dark strip at its top.

    Args:
        size: of the letters in pixels; None: a 24th of the height. Text too wide for the frame is written smaller.
    """
    if not lines:
        return frame.copy()
    image = Image.fromarray(frame)
    width, height = image.size
    size = max(round(height / 24), 10) if size is None else size
    widest = max((_font(size).getlength(line) for line in lines), default=0.0)
    if widest > width - size > 0:
        size = max(int(size * (width - size) / widest), 6)
    font, pitch = _font(size), round(1.3 * size)
    strip = Image.new("RGBA", (width, pitch * len(lines) + size // 2), (20, 24, 32, 150))
    draw = ImageDraw.Draw(strip)
    for index, line in enumerate(lines):
        draw.text((size // 2, size // 4 + index * pitch), line, (255, 255, 255, 255), font)
    image.paste(strip.convert("RGB"), (0, 0), strip.getchannel("A"))
    return np.asarray(image).copy()


def lamp(frame: np.ndarray, colour: Colour) -> np.ndarray:
    """A copy of a frame (height, width, 3) uint8 with a disc in its middle, two thirds as large as would fit."""
    image = Image.fromarray(frame)
    ImageDraw.Draw(image).circle((image.width / 2, image.height / 2), min(image.size) / 3, colour)
    return np.asarray(image).copy()


def grid(rows: Sequence[Sequence[np.ndarray]], separator: int = 2) -> np.ndarray:
    """Rows of frames (height, width, 3) uint8 as one, with thin lines between them.

    Raises:
        RenderError: unless the frames of a row have one height, and the rows one width.
    """
    return _joined([_joined(row, 1, separator) for row in rows], 0, separator)


def _joined(frames: Sequence[np.ndarray], axis: int, separator: int) -> np.ndarray:
    """Frames one after the other along an axis."""
    sizes, name = [frame.shape[1 - axis] for frame in frames], ("width", "height")[axis]
    if len(set(sizes)) > 1:
        raise RenderError(f"frames beside each other need one {name}, got {' and '.join(map(str, sizes))}")
    shape = (separator, sizes[0], 3) if axis == 0 else (sizes[0], separator, 3)
    line = np.broadcast_to(np.array(SEPARATOR, np.uint8), shape)
    return np.concatenate([part for frame in frames for part in (line, frame)][1:], axis)


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float | int, kept: Sequence[Colour] = ()) -> Path:
    """Write frames (height, width, 3) uint8 as the suffix says; missing folders are made.

    `.mp4` is H.264, `.gif` an endless loop, `.png` the last frame alone, no suffix a folder of numbered PNGs. The file
    appears under its name only when it is whole.

    Args:
        kept: colours that a GIF, which has only 256, must show as they are, however rare they be.

    Raises:
        RenderError: for an unknown suffix, no frame, a frame of another size or kind than the first, fps that are not
            positive, or a path that cannot be written.
    """
    path = Path(path)
    writers = {".mp4": _write_mp4, ".gif": partial(_write_gif, kept=kept), ".png": _write_png, "": _write_folder}
    if path.suffix.lower() not in writers or path.name in ("", ".."):
        raise RenderError(f"{path}: not a name for a video; use .mp4, .gif, .png or no suffix (a folder)")
    if not 0 < fps <= 1000:
        raise RenderError(f"a video needs between 0 and 1000 frames per second, got {fps}")
    # Hidden and unlike any other writer's name; the suffix stays, because encoders look at it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix.lower()](temporary, _checked(frames), fps)
        os.replace(temporary, path)
    except OSError as error:
        raise RenderError(f"cannot write {path}: {error.strerror or ' '.join(str(error).split())}") from None
    finally:
        _remove(temporary)
    return path


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames as they come, each one checked."""
    shape = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise RenderError(f"frame {index} is {frame.dtype} {frame.shape}; a video needs uint8 (height, width, 3)")
        if shape is None:
            shape = frame.shape
        if frame.shape != shape:
            raise RenderError(f"frame {index} has shape {frame.shape}, unlike the first with {shape}")
        yield np.ascontiguousarray(frame)
    if shape is None:
        raise RenderError("there is no frame to write")


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float | int) -> None:
    try:
        import av  # slow to load, and not needed for pictures
        from av.error import FFmpegError
        from av.video.stream import VideoStream
    except ImportError:
        raise RenderError("an .mp4 needs PyAV (pip install av); .gif works without it") from None

    encoder = next((name for name in ENCODERS if name in av.codecs_available), None)
    if encoder is None:
        raise RenderError("this build of PyAV has no H.264 encoder (pip install av brings one); .gif works without it")
    first = next(frames)
    # H.264's colour format halves the resolution of colour, hence even sizes.
    odd = ((0, first.shape[0] % 2), (0, first.shape[1] % 2), (0, 0))
    options = {"movflags": "+faststart"}  # a browser can start before it has the whole file
    with _encoding(FFmpegError), av.open(str(path), "w", format="mp4", options=options) as container:
        stream = cast(VideoStream, container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1000)))
        stream.height, stream.width = first.shape[0] + odd[0][1], first.shape[1] + odd[1][1]
        stream.pix_fmt = "yuv420p"
        if encoder == "libx264":
            # Its macroblock tree reads memory that was never written: the same pictures became different files.
            stream.options = {"crf": str(QUALITY), "preset": PRESET, "mbtree": "0"}
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.pad(frame, odd, "edge"), "rgb24")))
        container.mux(stream.encode(None))


@contextlib.contextmanager
def _encoding(failure: type[Exception]) -> Iterator[None]:
    try:
        yield
    except failure as error:
        raise RenderError(f"the video could not be encoded: {' '.join(str(error).split())}") from None


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float | int, kept: Sequence[Colour]) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    # One palette for all keeps still parts still, and the file small.
    chosen = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, PALETTE_FRAMES).round().astype(int))]
    sheet = np.concatenate([np.asarray(image) for image in chosen])
    common = Image.fromarray(sheet).quantize(256 - len(kept), Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(channel for colour in kept for channel in colour), *common])
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    duration = max(round(100.0 / fps), 2) * 10  # ms; GIF counts in 10 ms, and players slow down below 20
    first, *others = indexed
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0, optimize=True, disposal=1)


def _write_png(path: Path, frames: Iterator[np.ndarray], fps: float | int) -> None:
    *_, last = frames
    Image.fromarray(last).save(path)


def _write_folder(path: Path, frames: Iterator[np.ndarray], fps: float | int) -> None:
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index:05d}.png")


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
