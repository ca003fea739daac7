"""Pictures of running simulations, and a window to show them in."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from envs.core.environment import Drawer, Environment
from envs.errors import EnvsError

SHOWN = 9  # simulations in a window, at most: each has to be drawn in every step


def check_render_mode(mode: str | None, valid: Sequence[str]) -> None:
    """Refuse an unknown render mode with an EnvsError."""
    if mode is not None and mode not in valid:
        raise EnvsError(f"unknown render_mode '{mode}' (valid: {', '.join(valid)})")


def frame_rate(environment: Environment) -> int:
    """Pictures per second, one for each step; at least 1."""
    return max(round(1.0 / environment.step_period), 1)


class Pictures:
    """Draws simulations; one drawer per simulation and episode, made when first asked for.

    Args:
        width, height: of each picture, in pixels.
        window: the title of a window in which `show` shows the first of them; None: there is no window.

    Raises:
        EnvsError: if there is no display to open a window on.
    """

    def __init__(self, environment: Environment, width: int, height: int, window: str | None = None) -> None:
        self.environment, self.size = environment, (width, height)
        self.shown = min(environment.num_simulations, SHOWN)
        rows, columns = _layout(self.shown)
        self._window = None if window is None else Window(columns * width, rows * height, window)
        self._drawers: dict[int, Drawer] = {}

    def draw(self, simulation: int) -> np.ndarray:
        """The simulation as it is now, (height, width, 3) uint8."""
        if simulation not in self._drawers:
            self._drawers[simulation] = self.environment.drawer(simulation, *self.size)
        return self._drawers[simulation](self.environment.render_state(simulation))

    def show(self) -> None:
        """Show the simulations as they are now in the window, if there is one, at the pace of the simulated time."""
        if self._window is not None:
            pictures = [self.draw(simulation) for simulation in range(self.shown)]
            self._window.show(tiled(pictures), self.environment.step_period)

    def close(self) -> None:
        """Close the window, if there is one; closing twice is fine."""
        self.forget()
        if self._window is not None:
            self._window.close()
            self._window = None

    def forget(self, mask: Tensor | None = None) -> None:
        """The masked simulations (N,) (None: all) begin anew: another task may look different."""
        chosen = list(self._drawers) if mask is None else mask.nonzero()[:, 0].tolist()
        for simulation in chosen:
            self._drawers.pop(simulation, None)


def tiled(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (height, width, 3) in rows of equal length as one; places that are left over are black."""
    rows, columns = _layout(len(pictures))
    blank = np.zeros_like(pictures[0])
    filled = [*pictures, *[blank] * (rows * columns - len(pictures))]
    return np.concatenate([np.concatenate(filled[row * columns :][:columns], 1) for row in range(rows)])


def _layout(count: int) -> tuple[int, int]:
    """Rows and columns for some pictures."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


class Window:
    """Shows one picture after another at the pace of the simulated time, by the GLFW that MuJoCo brings along.

    Raises:
        EnvsError: if there is no display to open a window on.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._window = None
        reason = "GLFW or PyOpenGL is not installed"
        # glfw reports its errors as warnings; the one that matters becomes the exception's text.
        with warnings.catch_warnings(record=True) as caught, contextlib.suppress(ImportError):
            warnings.simplefilter("always")
            import glfw
            from OpenGL import GL

            self._glfw, self._gl = glfw, GL
            if glfw.init():
                glfw.window_hint(glfw.RESIZABLE, glfw.FALSE)
                if sys.platform == "linux":
                    # The pictures are drawn by EGL, and a thread cannot have contexts of EGL and GLX in turns.
                    glfw.window_hint(glfw.CONTEXT_CREATION_API, glfw.EGL_CONTEXT_API)
                self._window = glfw.create_window(width, height, title, None, None)
            reason = " ".join(str(caught[-1].message).split()) if caught else "no display"
        if not self._window:
            raise EnvsError(f"render_mode='human' needs a display ({reason}): use render_mode='rgb_array'")
        self._shown = 0.0

    def show(self, picture: np.ndarray, period: float) -> None:
        """Show a picture (height, width, 3) uint8, not before `period` seconds after the last one."""
        time.sleep(max(0.0, self._shown + period - time.monotonic()))
        self._shown = time.monotonic()
        # A window that the user has closed stays closed; the simulation goes on.
        if self._window is None or self._glfw.window_should_close(self._window):
            self.close()
            return
        height, width = picture.shape[:2]
        self._glfw.make_context_current(self._window)
        # On a display of high density the window has more pixels than asked for.
        pixels, _ = self._glfw.get_framebuffer_size(self._window)
        self._gl.glPixelStorei(self._gl.GL_UNPACK_ALIGNMENT, 1)
        self._gl.glPixelZoom(pixels / width, pixels / width)
        self._gl.glRasterPos2f(-1.0, -1.0)
        upright = np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the lowest
        self._gl.glDrawPixels(width, height, self._gl.GL_RGB, self._gl.GL_UNSIGNED_BYTE, upright)
        self._glfw.swap_buffers(self._window)
        self._glfw.poll_events()

    def close(self) -> None:
        """Close the window; closing twice is fine."""
        if self._window is not None:
            self._glfw.destroy_window(self._window)
            self._window = None
