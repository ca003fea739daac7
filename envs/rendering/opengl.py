"""Pictures of a MuJoCo model by OpenGL, without a window.

Which of MuJoCo's contexts works shows only when one is made, and a failed attempt cannot be taken back: PyOpenGL
chooses its platform once per process, and a broken driver may even end the process. Hence `usable` tries in a child
process. This file is that child's program too, so it imports nothing heavy and nothing of `envs`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import subprocess
import sys
import weakref

import mujoco
import numpy as np

# The libraries that a context needs, under any of their names. Looking for them spares the child process on a machine
# that has none. Windows and macOS bring OpenGL along.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "egl": ("libEGL.so.1", "libEGL.so"),
    "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"),
    "glfw": (),
    "cgl": (),
}
SHADOW_SIZE = 1024  # pixels of the shadow map
SAMPLES = 4  # per pixel, against jagged edges
PROBE_SECONDS = 60.0

_PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)
_SMALL = '<mujoco><worldbody><light pos="0 0 3"/><geom size="1" rgba="1 0 0 1"/></worldbody></mujoco>'
_open: weakref.WeakSet[OpenGLPainter] = weakref.WeakSet()


def candidates() -> tuple[str, ...]:
    """The contexts worth trying on this machine, best first."""
    if sys.platform == "darwin":
        return ("cgl",)
    if sys.platform == "win32":
        return ("glfw",)
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ("egl", "osmesa", "glfw") if display else ("egl", "osmesa")


@functools.cache
def usable(backend: str) -> bool:
    """Whether a child process could draw with this context; asked once per process, about half a second."""
    names = LIBRARIES[backend]
    if names and not any(_loads(name) for name in names):
        return False
    # An import of mujoco obeys MUJOCO_GL; "disable" lets it import no context of its own.
    environment = os.environ | {"MUJOCO_GL": "disable"}
    command = [sys.executable, "-P", __file__, backend]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


class OpenGLPainter:
    """Draws one model; not for use by two threads at once.

    Args:
        model: its framebuffer size and quality settings are changed here; its geoms may change between pictures.
        backend: a key of `LIBRARIES`.
        plain: without shadows, and with one sample per pixel.

    Raises:
        Exception: of many kinds, if this machine cannot; the caller tries another painter.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int, backend: str, plain: bool = False) -> None:
        self._gl = self._context = None
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.quality.shadowsize, model.vis.quality.offsamples = SHADOW_SIZE, 0 if plain else SAMPLES
        self.model = model
        self.scene = mujoco.MjvScene(model, model.ngeom + model.nsite + model.ntendon * 100 + 1000)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0 if plain else 1
        self.option = mujoco.MjvOption()
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        # EGL closes its display at exit; this hook, registered after EGL's, runs before it.
        if not _open:
            atexit.register(_close_all)
        _open.add(self)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        if self._context.currentBuffer != int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN):
            raise RuntimeError("this OpenGL has no offscreen framebuffer")

    def paint(self, data: mujoco.MjData, camera: mujoco.MjvCamera) -> np.ndarray:
        """The scene as a fresh (height, width, 3) uint8 picture; `data` holds up-to-date positions."""
        if self._gl is None:
            raise RuntimeError("this renderer is closed")
        self._gl.make_current()
        every = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(self.model, data, self.option, None, camera, every, self.scene)
        for geom in self.scene.geoms[: self.scene.ngeom]:
            if geom.type == _PLANE and hasattr(geom, "castshadow"):  # not in every MuJoCo
                geom.castshadow = 0  # in the shadow map a plane only speckles itself
        mujoco.mjr_render(self._rectangle, self.scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the context; closing twice is fine."""
        context, self._context = self._context, None
        gl, self._gl = self._gl, None
        if gl is not None:
            if context is not None:
                gl.make_current()
                context.free()
            gl.free()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def _close_all() -> None:
    for painter in list(_open):
        with contextlib.suppress(Exception):
            painter.close()


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _probe(backend: str) -> bool:
    model = mujoco.MjModel.from_xml_string(_SMALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    painter = OpenGLPainter(model, 32, 32, backend)
    picture = painter.paint(data, camera)
    painter.close()
    return float(picture.std()) > 1.0


if __name__ == "__main__":
    sys.exit(0 if _probe(sys.argv[1]) else 1)
