"""Captions, panels and video files."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import av
import numpy as np
import pytest
from PIL import Image

from metarl.errors import RenderError
from metarl.evaluation import video
from metarl.evaluation.video import caption, grid, lamp, write_video


def ramp(count: int = 7, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Frames that grow brighter from the first to the last, each with a red left half."""
    for index in range(count):
        frame = np.full((height, width, 3), 20 + 30 * index, np.uint8)
        frame[:, : width // 2] = (200, 10, 10)
        yield frame


def brightness(frame: np.ndarray) -> float:
    return float(frame[:, frame.shape[1] * 3 // 4].mean())


def test_mp4_can_be_decoded_again(tmp_path):
    path = write_video(tmp_path / "new" / "folder" / "episode.mp4", ramp(), 20)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 20
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 7 and frames[0].shape == (48, 64, 3)
    for index, frame in enumerate(frames):
        assert brightness(frame) == pytest.approx(20 + 30 * index, abs=6)
        assert frame[24, 8] == pytest.approx((200, 10, 10), abs=25)
    assert [file.name for file in path.parent.iterdir()] == ["episode.mp4"]


def test_mp4_of_odd_size_keeps_every_pixel(tmp_path):
    path = write_video(tmp_path / "odd.mp4", ramp(2, 45, 61), 1 / 0.05)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 2 and frames[0].shape == (46, 62, 3)


ENCODED = """
import sys
import numpy as np
from metarl.evaluation.video import write_video
picture = np.random.default_rng(0).integers(0, 255, (240, 330, 3), np.uint8)
write_video(sys.argv[1], (np.roll(picture, i, 1) for i in range(8)), 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="fills fresh memory as the GNU C library can")
def test_the_same_pictures_are_the_same_mp4_whatever_was_in_memory(tmp_path):
    digests = set()
    for fill in ("0", "1", "85"):
        path = tmp_path / f"{fill}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", ENCODED, str(path)], check=True, env=environment)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_gif_can_be_decoded_again(tmp_path):
    path = write_video(str(tmp_path / "episode.gif"), ramp(), 20)
    with Image.open(path) as image:
        assert (getattr(image, "n_frames", 1), image.size, image.info["loop"]) == (7, (64, 48), 0)
        for index in range(7):
            image.seek(index)
            assert image.info["duration"] == 50
            frame = np.asarray(image.convert("RGB"))
            assert brightness(frame) == pytest.approx(20 + 30 * index, abs=2)
            assert frame[24, 8] == pytest.approx((200, 10, 10), abs=2)


def test_pictures(tmp_path):
    last = np.asarray(Image.open(write_video(tmp_path / "end.PNG", ramp(), 20)))
    assert np.array_equal(last, list(ramp())[-1])
    folder = write_video(tmp_path / "frames", ramp(), 20)
    assert sorted(file.name for file in folder.iterdir()) == [f"{index:05d}.png" for index in range(7)]
    assert np.array_equal(np.asarray(Image.open(folder / "00003.png")), list(ramp())[3])
    with pytest.raises(RenderError, match="frames"):
        write_video(folder, ramp(), 20)  # it holds files: nothing is overwritten


@pytest.mark.parametrize("name", ["video.avi", "video.webm", "video.mp4.txt"])
def test_an_unknown_suffix(name, tmp_path):
    with pytest.raises(RenderError, match=r"\.mp4, \.gif, \.png") as failure:
        write_video(tmp_path / name, ramp(), 20)
    assert "\n" not in str(failure.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png", ""])
def test_a_place_that_cannot_be_written_to(suffix, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RenderError, match="cannot write .*file") as failure:
        write_video(tmp_path / "file" / f"video{suffix}", ramp(), 20)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png", ""])
def test_a_failure_leaves_the_old_file_and_nothing_else(suffix, tmp_path):
    def interrupted() -> Iterator[np.ndarray]:
        yield from ramp(3)
        raise KeyboardInterrupt

    path = tmp_path / f"video{suffix}"
    if suffix:
        path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_video(path, interrupted(), 20)
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if suffix else [])
    assert not suffix or path.read_text() == "old"


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png", ""])
@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frame"),
        ([np.zeros((4, 4), np.uint8)], "frame 0"),
        ([np.zeros((4, 4, 3), np.float32)], "float32"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "frame 1 has shape"),
    ],
)
def test_frames_that_are_no_video(frames, message, suffix, tmp_path):
    with pytest.raises(RenderError, match=message):
        write_video(tmp_path / f"video{suffix}", frames, 20)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf")])
def test_frames_per_second(fps, tmp_path):
    with pytest.raises(RenderError, match="frames per second"):
        write_video(tmp_path / "video.gif", ramp(), fps)


def test_a_caption_is_written_at_the_top_and_nowhere_else():
    frame = np.full((240, 320, 3), 90, np.uint8)
    written = caption(frame, ["reach: before adaptation", "step 3"])
    assert written.shape == frame.shape and written.dtype == np.uint8
    assert (frame == 90).all()
    assert written[:30].max() > 240 and written[:30].min() < 60  # white letters on a dark strip
    assert np.array_equal(written[60:], frame[60:])
    assert not np.array_equal(written, caption(frame, ["reach: after adaptation", "step 3"]))
    assert np.array_equal(caption(frame, []), frame)


def test_a_long_caption_fits():
    frame = np.full((240, 320, 3), 90, np.uint8)
    written = caption(frame, ["a line that is far too long for such a narrow picture, were it not written smaller"])
    assert (written[:, -4:] < 200).all()
    assert written.max() > 150


def test_frames_stand_beside_and_above_each_other():
    left, right = np.full((10, 12, 3), 1, np.uint8), np.full((10, 8, 3), 2, np.uint8)
    both = grid([[left, right]], 3)
    assert both.shape == (10, 23, 3) and both.dtype == np.uint8
    assert np.array_equal(both[:, :12], left) and np.array_equal(both[:, 15:], right)
    assert (both[:, 12:15] == video.SEPARATOR).all()
    four = grid([[left, right], [left, right]], 3)
    assert four.shape == (23, 23, 3)
    assert np.array_equal(four[:10], both) and np.array_equal(four[13:], both)
    assert (four[10:13] == video.SEPARATOR).all()
    assert np.array_equal(grid([[left]]), left)
    with pytest.raises(RenderError, match="one height, got 10 and 9"):
        grid([[left, right[:9]]])
    with pytest.raises(RenderError, match="one width, got 12 and 8"):
        grid([[left], [right]])


def test_a_lamp_is_a_disc():
    frame = np.full((30, 50, 3), 7, np.uint8)
    lit = lamp(frame, (250, 200, 0))
    assert (frame == 7).all() and lit.shape == frame.shape
    shines = (lit == (250, 200, 0)).all(-1)
    assert shines[15, 25] and not shines[:4].any() and not shines[:, :13].any()
    assert shines.sum() == pytest.approx(np.pi * 10**2, rel=0.15)


def test_a_gif_keeps_a_colour_that_is_rare(tmp_path):
    colours, random = (255, 196, 0), np.random.default_rng(0)
    frames = [random.integers(0, 255, (40, 40, 3)).astype(np.uint8) for _ in range(20)]
    frames[3][:4, :4] = colours
    seen = {}
    for kept in ((), (colours,)):
        with Image.open(write_video(tmp_path / "film.gif", frames, 10, kept)) as image:
            image.seek(3)
            seen[kept] = tuple(np.asarray(image.convert("RGB"))[1, 1].tolist())
    assert seen[()] != colours and seen[(colours,)] == colours
