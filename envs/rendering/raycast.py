"""Pictures of a MuJoCo model without any graphics library: MuJoCo casts the rays, numpy shades what they meet.

Drawn: geoms of the groups 0 to 2 with their colour, material and light, shadows, the pattern of a plane's texture, the
sky, the nearest translucent geom in a pixel. Not drawn: sites, tendons, the pattern of textures on anything but planes
(their mean colour stands in), reflections.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

import mujoco
import numpy as np
from PIL import Image

from envs.core.cores import usable_cores
from envs.rendering import shading
from envs.rendering.rays import PLANE, SOLID, TRANSLUCENT, Hits, View

CHUNK = 16384  # rays per piece of work: small enough for the cache and for threads to end together
SUN_DISTANCE = 60.0  # model extents; from there the rays of a directional light are nearly parallel
SHADOW_GAP = 2e-3  # model extents; a surface this close behind an occluder is the occluder itself
SHADOW_BLUR = 2  # pixels to either side by which a shadow's edge is softened
EDGE = 0.08  # difference of neighbouring pixels (1 is white on black) from which both are drawn again, finer
SUBPIXELS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))  # a rotated grid


class Traced(NamedTuple):
    """Light along n rays, with the part of the L shadow-casting lights apart, so that shadows can be softened."""

    geom: np.ndarray  # (n,) the opaque geom; -1: the sky
    steady: np.ndarray  # (n, 3) colour without the shadow-casting lights
    direct: np.ndarray  # (L, n, 3) what they add where no shadow falls
    visible: np.ndarray  # (L, n) 0 in the shadow, 1 outside

    def colour(self) -> np.ndarray:
        return self.steady + np.einsum("ln,lnc->nc", self.visible, self.direct)


class Seen(NamedTuple):
    """What a camera sees: its rays, from pixels (n,), (n,) to unit vectors (n, 3), and what these may meet."""

    rays: Callable[[np.ndarray, np.ndarray], np.ndarray]
    opaque: View
    glass: View


class RaycastPainter:
    """Draws one model; its geoms may change between pictures (size, type, colour).

    Args:
        plain: without shadows, with one ray per pixel, and where no body can be with one for four pixels.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int, plain: bool = False) -> None:
        self.model, self.width, self.height, self.plain = model, width, height, plain
        self.option = mujoco.MjvOption()
        self.scene = mujoco.MjvScene(model, 1000 + model.ngeom + model.nsite + 100 * model.ntendon)
        self._textures = shading.read_textures(model)
        threads = min(usable_cores(), 8)
        self._pool = ThreadPoolExecutor(threads)
        # mj_multiRay works on the MjData's stack, so every thread needs an MjData of its own.
        self._copies = [mujoco.MjData(model) for _ in range(threads)]
        self._spare: SimpleQueue[mujoco.MjData] = SimpleQueue()
        for copy in self._copies:
            self._spare.put(copy)

    def paint(self, data: mujoco.MjData, camera: mujoco.MjvCamera) -> np.ndarray:
        """The scene as a fresh (height, width, 3) uint8 picture; `data` holds up-to-date positions."""
        every = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(self.model, data, self.option, None, camera, every, self.scene)
        shown = np.array(self.option.geomgroup, bool)
        self._surfaces = shading.read_surfaces(self.model, self._textures, shown)
        self._lights = shading.read_lights(self.scene)
        if self.plain:
            self._lights = [light._replace(shadow=False) for light in self._lights]
        self._ambient = np.sum([light.ambient for light in self._lights] or [np.zeros(3)], 0, np.float32)
        plane = self.model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)
        # Haze hides where a floor without end would end; a model without one stands in clear air.
        self._hazy = bool((plane & (self.model.geom_size[:, :2] <= 0).any(-1)).any())
        self._patterned = np.flatnonzero(plane & np.isin(self.model.geom_matid, list(self._textures.planes))).tolist()
        for copy in self._copies:
            mujoco.mj_copyData(copy, self.model, data)
        own_groups = self.model.geom_group.copy()
        self.model.geom_group[:] = self._surfaces.group
        try:
            rays, axis = self._camera()
            self._casters = [self._light_view(data, light) for light in self._lights if light.shadow]
            solid, ground, glass = (
                View(self.model, data, self._eye, axis, groups) for groups in ((SOLID, PLANE), (PLANE,), (TRANSLUCENT,))
            )
            if self.plain:
                return self._plain_picture(Seen(rays, solid, glass), Seen(rays, ground, ground))
            return self._picture(Seen(rays, solid, glass))
        finally:
            self.model.geom_group[:] = own_groups

    def _picture(self, seen: Seen) -> np.ndarray:
        x, y = np.broadcast_arrays(np.arange(self.width)[None], np.arange(self.height)[:, None])
        traced = self._trace_all(seen, x.reshape(-1), y.reshape(-1))
        # The edge of a shadow does not count: it stays soft.
        edge = edges((traced.steady + traced.direct.sum(0)).reshape(self.height, self.width, 3))
        colour = self._soften(traced).colour().reshape(self.height, self.width, 3)
        if edge.any():
            samples = [self._trace_all(seen, x[edge] + i, y[edge] + j).colour() for i, j in SUBPIXELS]
            colour[edge] = np.mean(np.clip(samples, 0.0, 1.0), 0)
        return _bytes(colour)

    def _plain_picture(self, seen: Seen, ground: Seen) -> np.ndarray:
        """The ground and the sky at half the resolution, and over them the pixels in which there may be more."""
        x, y = np.meshgrid(np.arange(0.5, self.width, 2.0), np.arange(0.5, self.height, 2.0))
        rough = _bytes(self._trace_all(ground, x.reshape(-1), y.reshape(-1)).colour().reshape(*x.shape, 3))
        image = Image.fromarray(rough).resize((2 * x.shape[1], 2 * x.shape[0]), Image.Resampling.BILINEAR)
        picture = np.array(image)[: self.height, : self.width]
        x, y = np.meshgrid(np.arange(self.width), np.arange(self.height))
        rays = seen.rays(x.reshape(-1), y.reshape(-1))
        more = (seen.opaque.may_hit(rays) | seen.glass.may_hit(rays)).reshape(x.shape)
        if more.any():
            picture[more] = _bytes(self._trace_all(seen, x[more], y[more]).colour())
        return picture

    def close(self) -> None:
        """End the worker threads; closing twice is fine."""
        self._pool.shutdown()

    def _camera(self) -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], np.ndarray]:
        """Sets the eye; returns the map from pixels (n,), (n,) to unit vectors (n, 3), and the forward axis (3,)."""
        left, right = self.scene.camera  # MuJoCo keeps one camera per eye
        self._eye = (left.pos.astype(float) + right.pos) / 2.0
        forward, up = left.forward.astype(float), left.up.astype(float)
        axes = np.stack([np.cross(forward, up), up, forward])
        self._pixel = (left.frustum_top - left.frustum_bottom) / left.frustum_near / self.height

        def rays(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            across = (x - (self.width - 1) / 2.0) * self._pixel
            above = ((self.height - 1) / 2.0 - y) * self._pixel
            length = np.sqrt(across**2 + above**2 + 1.0)
            return np.stack([across / length, above / length, 1.0 / length], 1) @ axes

        return rays, forward

    def _trace_all(self, seen: Seen, x: np.ndarray, y: np.ndarray) -> Traced:
        """Trace the pixels at x, y (n,) on all threads."""

        def part(start: int) -> Traced:
            data = self._spare.get()
            try:
                return self._trace(data, seen, seen.rays(x[start : start + CHUNK], y[start : start + CHUNK]))
            finally:
                self._spare.put(data)

        parts = list(self._pool.map(part, range(0, len(x), CHUNK)))
        geom, steady, direct, visible = zip(*parts, strict=True)
        return Traced(
            np.concatenate(geom), np.concatenate(steady), np.concatenate(direct, 1), np.concatenate(visible, 1)
        )

    def _trace(self, data: mujoco.MjData, seen: Seen, rays: np.ndarray) -> Traced:
        """Light along rays (n, 3) from the eye."""
        opaque = seen.opaque.first(data, rays)
        direction = rays.astype(np.float32)
        steady = np.empty((len(rays), 3), np.float32)
        direct = np.zeros((len(self._casters), len(rays), 3), np.float32)
        visible = np.ones((len(self._casters), len(rays)), np.float32)
        missed, met = opaque.geom < 0, opaque.geom >= 0
        if missed.any():
            steady[missed] = shading.sky_colour(self._textures, direction[missed], self._hazy)
        if met.any():
            rows = slice(None) if met.all() else np.flatnonzero(met)  # a slice spares copies
            steady[rows], direct[:, rows] = self._shade(data, opaque, direction, rows)
            point = self._eye + rays[rows] * opaque.distance[rows, None]
            for index, view in enumerate(self._casters):
                visible[index, rows] = self._reaches(data, view, point)
        if not seen.glass.empty:
            glass = seen.glass.first(data, rays)
            front = np.flatnonzero(glass.distance < opaque.distance)
            if len(front):
                own, own_direct = self._shade(data, glass, direction, front)
                alpha = 1.0 - (1.0 - self._surfaces.rgba[glass.geom[front], 3:]) ** 2  # the front and the back of it
                steady[front] += alpha * (own + own_direct.sum(0) - steady[front])
                direct[:, front] *= 1.0 - alpha
        return Traced(opaque.geom, steady, direct, visible)

    def _light_view(self, data: mujoco.MjData, light: shading.Light) -> View:
        """What stands in a light's way. Planes cast no shadow."""
        source, axis = light.position.astype(float), light.direction.astype(float)
        if light.directional:  # above what the eye sees, wherever that is
            source = self._eye - SUN_DISTANCE * self.model.stat.extent * axis
        return View(self.model, data, source, axis, (SOLID, TRANSLUCENT))

    def _reaches(self, data: mujoco.MjData, view: View, point: np.ndarray) -> np.ndarray:
        """(n,) 1 where the light shines on a point (n, 3), 0 where something stands between."""
        ray = point - view.origin
        distance = np.sqrt(np.einsum("ij,ij->i", ray, ray))
        met = view.first(data, ray / np.maximum(distance, 1e-9)[:, None]).distance
        return (met > distance - SHADOW_GAP * self.model.stat.extent).astype(np.float32)

    def _shade(
        self, data: mujoco.MjData, hits: Hits, direction: np.ndarray, rows: np.ndarray | slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colour (k, 3) of the chosen rows of hits without the shadow-casting lights; what those add (L, k, 3)."""
        geom, distance, ray = hits.geom[rows], hits.distance[rows].astype(np.float32), direction[rows]
        point = self._eye.astype(np.float32) + ray * distance[:, None]
        normal = hits.normal[rows].astype(np.float32)
        slant = np.einsum("ij,ij->i", normal, ray)
        normal *= -np.sign(slant)[:, None]  # towards the eye, also on a plane's back
        surfaces = self._surfaces
        colour = surfaces.rgba[:, :3].take(geom, 0)
        for index in self._patterned:
            here = np.flatnonzero(geom == index)
            if len(here):
                colour[here] *= self._pattern(data, index, point[here], distance[here], slant[here])
        specular, exponent = surfaces.specular.take(geom), surfaces.exponent.take(geom)
        tint = self._ambient + surfaces.emission.take(geom)[:, None]
        gloss, direct = np.zeros_like(colour), []
        for light in self._lights:
            diffuse, highlight = shading.incoming(light, point, normal, ray, exponent)
            coloured, white = diffuse[:, None] * light.diffuse, (specular * highlight)[:, None] * light.specular
            if light.shadow:
                direct.append(colour * coloured + white)
            else:
                tint += coloured
                gloss += white
        steady, added = colour * tint + gloss, np.reshape(direct, (len(direct), len(geom), 3))
        if not self._hazy:
            return steady, added
        clear = np.exp(-((distance / (shading.HAZE_DISTANCE * self.model.stat.extent)) ** 2))[:, None]
        return (steady - self._textures.haze) * clear + self._textures.haze, added * clear

    def _pattern(
        self, data: mujoco.MjData, geom: int, point: np.ndarray, distance: np.ndarray, slant: np.ndarray
    ) -> np.ndarray:
        """The texture's colour (n, 3) at points (n, 3) of a plane, seen at an angle of cosine `slant` (n,)."""
        material = int(self.model.geom_matid[geom])
        axes = data.geom_xmat[geom].reshape(3, 3)[:, :2].astype(np.float32)
        local = (point - data.geom_xpos[geom].astype(np.float32)) @ axes
        scale = self.model.mat_texrepeat[material] / 2.0
        if not self.model.mat_texuniform[material]:
            size = self.model.geom_size[geom, :2]
            scale = scale / np.where(size > 0, size, 1.0)
        uv = local * (scale * (1, -1)).astype(np.float32) - np.float32(0.5)
        footprint = distance * np.float32(self._pixel * scale.max()) / np.sqrt(np.maximum(np.abs(slant), 0.02))
        return shading.plane_colour(self._textures.planes[material], uv, footprint)

    def _soften(self, traced: Traced) -> Traced:
        """Average the shadows over the neighbouring pixels of the same geom."""
        geom = traced.geom.reshape(self.height, self.width)
        visible = [soften(image.reshape(self.height, self.width), geom).reshape(-1) for image in traced.visible]
        return traced._replace(visible=np.array(visible, np.float32).reshape(traced.visible.shape))


def _bytes(colour: np.ndarray) -> np.ndarray:
    return (np.clip(colour, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def soften(image: np.ndarray, label: np.ndarray, reach: int = SHADOW_BLUR) -> np.ndarray:
    """Mean of an image (h, w) over the neighbours with the same label (h, w), along rows and then along columns."""
    for axis in (0, 1):
        total, count = image.copy(), np.ones_like(image)
        for shift in range(1, reach + 1):
            ahead = (slice(shift, None), slice(None))[:: 1 - 2 * axis]
            behind = (slice(None, -shift), slice(None))[:: 1 - 2 * axis]
            same = label[ahead] == label[behind]
            total[ahead] += same * image[behind]
            total[behind] += same * image[ahead]
            count[ahead] += same
            count[behind] += same
        image = total / count
    return image


def edges(colour: np.ndarray, threshold: float = EDGE) -> np.ndarray:
    """(h, w) bool: pixels of a picture (h, w, 3) that differ clearly from a neighbour."""
    found = np.zeros(colour.shape[:2], bool)
    across = (np.abs(np.diff(colour, axis=1)) > threshold).any(-1)
    down = (np.abs(np.diff(colour, axis=0)) > threshold).any(-1)
    found[:, 1:] |= across
    found[:, :-1] |= across
    found[1:] |= down
    found[:-1] |= down
    return found
