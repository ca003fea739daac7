"""A window on a real display; on Linux without one, on one that Xvfb pretends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

PROGRAM = """
import sys, numpy, gymnasium, envs
import glfw
from envs.adapters.sb3 import SB3VecEnv
options = dict(render_mode="human", width=64, height=48, horizon=3)

def read(window):
    GL = own_window._gl
    GL.glReadBuffer(GL.GL_BACK)
    pixels = GL.glReadPixels(0, 0, *size, GL.GL_RGB, GL.GL_UNSIGNED_BYTE)
    drawn.append(numpy.frombuffer(pixels, numpy.uint8).reshape(size[1], size[0], 3)[::-1])
    swap(window)

swap, glfw.swap_buffers = glfw.swap_buffers, read  # what is drawn is only defined until it is swapped

for kind in ("one", "many", "sb3"):
    size = (64, 48) if kind == "one" else (128, 48)
    if kind == "one":
        env = gymnasium.make("metarl/Point2d-v0", **options)
        own = env.unwrapped
    elif kind == "many":
        env = own = gymnasium.make_vec("metarl/Point2d-v0", num_envs=2, **options)
    else:
        env = own = SB3VecEnv("point2d", 2, **options)
    pictures = next(value for value in vars(own).values() if type(value).__name__ == "Pictures")
    own_window, drawn, shown = pictures._window, [], []
    assert glfw.get_window_size(own_window._window) == size
    show = own_window.show
    own_window.show = lambda picture, period: (shown.append(picture), show(picture, period))
    env.reset()
    for _ in range(4):
        env.step(numpy.ones((2, 2)) if kind == "sb3" else env.action_space.sample())
    same = len(drawn) == len(shown) > 3 and all(map(numpy.array_equal, drawn, shown))
    print(kind, "drawn" if same and shown[0].std() > 1 else "blank")
    env.close()
    print(kind, "closed" if own_window._window is None else "open")
"""


@pytest.fixture
def display() -> Iterator[str]:
    """One that is there, or a pretended one."""
    if sys.platform != "linux":
        pytest.skip("elsewhere a window may have more pixels than its picture")
    if not os.environ.get("DISPLAY"):
        if shutil.which("Xvfb") is None:
            pytest.skip("no display to open a window on, and no Xvfb to pretend one: apt install xvfb")
        read, write = os.pipe()
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", "320x240x24", "-nolisten", "tcp"],
            pass_fds=[write],
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as told:
            number = told.readline().strip()
        if not number:
            pytest.skip("Xvfb does not start")
        yield f":{number}"
        server.terminate()
        server.wait(timeout=60)
    else:
        yield os.environ.get("DISPLAY", "")


def test_a_window_opens_shows_and_closes(display: str) -> None:
    """Of every adapter; in a process of its own, which may have another platform of OpenGL."""
    pytest.importorskip("glfw")
    environment = {**os.environ, "DISPLAY": display}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    words = [f"{kind} {what}" for kind in ("one", "many", "sb3") for what in ("drawn", "closed")]
    assert done.stdout.splitlines() == words, done.stderr
