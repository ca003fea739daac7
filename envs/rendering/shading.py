"""Colours for the ray-cast pictures: surfaces, textures, sky and light, in numpy.

Light follows OpenGL's fixed pipeline, as MuJoCo's own renderer does: ambient, Lambert, and the half-vector highlight
(Blinn 1977), so that both kinds of picture look alike.
"""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np

from envs.rendering.rays import HIDDEN, PLANE, SOLID, TRANSLUCENT

HAZE_HEIGHT = 0.15  # tangent of the elevation up to which the haze reaches
HAZE_DISTANCE = 15.0  # model extents after which the ground has gone over to the haze by 63%

_PLAIN_SKY = np.linspace((0.45, 0.60, 0.80), (0.88, 0.92, 0.96), 64, dtype=np.float32)  # for a model without a skybox
_DIRECTIONAL, _SPOT = int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL), int(mujoco.mjtLightType.mjLIGHT_SPOT)
_GEOM_PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)


class Surfaces(NamedTuple):
    """How each of G geoms looks."""

    rgba: np.ndarray  # (G, 4) float32
    emission: np.ndarray  # (G,)
    specular: np.ndarray  # (G,)
    exponent: np.ndarray  # (G,) of the highlight
    group: np.ndarray  # (G,) SOLID, PLANE, TRANSLUCENT or HIDDEN


class Textures(NamedTuple):
    """The parts of a model's textures that the ray-cast picture uses; they do not change with the geoms."""

    mean: np.ndarray  # (materials, 3) mean colour of a material's texture; white without one
    planes: dict[int, list[np.ndarray]]  # material -> ever smaller copies (h, w, 3) of its 2D texture
    sky: np.ndarray  # (rows, 3), from the zenith's colour to the nadir's
    haze: np.ndarray  # (3,)


class Light(NamedTuple):
    """One light of the scene in world coordinates."""

    directional: bool
    shadow: bool
    position: np.ndarray  # (3,)
    direction: np.ndarray  # (3,) the way its rays go
    ambient: np.ndarray  # (3,)
    diffuse: np.ndarray  # (3,)
    specular: np.ndarray  # (3,)
    attenuation: np.ndarray  # (3,) constant, linear, quadratic
    cutoff: float  # cosine of a spot light's half angle; -1: shines everywhere
    exponent: float


def read_textures(model: mujoco.MjModel) -> Textures:
    images = [_image(model, texture) for texture in range(model.ntex)]
    mean = np.ones((model.nmat, 3), np.float32)
    planes: dict[int, list[np.ndarray]] = {}
    for material, texture in enumerate(model.mat_texid[:, int(mujoco.mjtTextureRole.mjTEXROLE_RGB)]):
        if texture >= 0:
            mean[material] = images[texture].mean((0, 1))
            if int(model.tex_type[texture]) == int(mujoco.mjtTexture.mjTEXTURE_2D):
                planes[material] = _smaller_copies(images[texture])
    sky = _PLAIN_SKY
    skyboxes = np.flatnonzero(model.tex_type == int(mujoco.mjtTexture.mjTEXTURE_SKYBOX))
    if len(skyboxes):
        sky = _vertical_profile(images[skyboxes[0]])
    return Textures(mean, planes, sky, np.array(model.vis.rgba.haze[:3], np.float32))


def read_surfaces(model: mujoco.MjModel, textures: Textures, shown: np.ndarray) -> Surfaces:
    """Appearance of all geoms, chosen as `mjv_updateScene` does: a geom's own colour, unless it is MuJoCo's default.

    Args:
        shown: (6,) bool, the geom groups to draw.
    """
    material, plane = model.geom_matid, model.geom_type == _GEOM_PLANE
    rgba = model.geom_rgba.copy()
    emission, specular, shininess = np.zeros(model.ngeom), np.full(model.ngeom, 0.5), np.full(model.ngeom, 0.5)
    has = material >= 0
    if has.any():
        chosen = material[has]
        uncoloured = (rgba[has] == np.array([0.5, 0.5, 0.5, 1.0], np.float32)).all(-1)
        rgba[has] = np.where(uncoloured[:, None], model.mat_rgba[chosen], rgba[has])
        patterned = plane[has] & np.isin(chosen, list(textures.planes))
        rgba[has, :3] *= np.where(patterned[:, None], 1.0, textures.mean[chosen])
        emission[has], specular[has] = model.mat_emission[chosen], model.mat_specular[chosen]
        shininess[has] = model.mat_shininess[chosen]
    kind = np.where(rgba[:, 3] < 1.0, TRANSLUCENT, np.where(plane, PLANE, SOLID))
    kind[~shown[model.geom_group] | (rgba[:, 3] <= 0.0)] = HIDDEN
    exponent = np.maximum(shininess * 128.0, 1.0)
    emission, specular, exponent = (array.astype(np.float32) for array in (emission, specular, exponent))
    return Surfaces(rgba, emission, specular, exponent, kind)


def read_lights(scene: mujoco.MjvScene) -> list[Light]:
    return [_read_light(light) for light in list(scene.lights)[: scene.nlight]]


def _read_light(light: mujoco.MjvLight) -> Light:
    kind = int(light.type)
    return Light(
        directional=kind == _DIRECTIONAL,
        shadow=bool(light.castshadow) and not light.headlight,
        position=np.array(light.pos, np.float32),
        direction=np.array(light.dir, np.float32),
        ambient=np.array(light.ambient, np.float32),
        diffuse=np.array(light.diffuse, np.float32),
        specular=np.array(light.specular, np.float32),
        attenuation=np.array(light.attenuation, np.float32),
        cutoff=float(np.cos(np.deg2rad(light.cutoff))) if kind == _SPOT else -1.0,
        exponent=float(light.exponent),
    )


def sky_colour(textures: Textures, rays: np.ndarray, haze: bool) -> np.ndarray:
    """Colour (n, 3) of the sky along unit vectors (n, 3), with or without haze on the horizon."""
    height = rays[:, 2] / np.maximum(np.hypot(rays[:, 0], rays[:, 1]), 1e-6)
    row = (0.5 - np.clip(height, -1.0, 1.0) / 2.0) * (len(textures.sky) - 1)
    colour = textures.sky[np.rint(row).astype(np.int32)]
    if not haze:
        return colour
    veil = np.clip(1.0 - np.abs(height) / HAZE_HEIGHT, 0.0, 1.0)[:, None] ** 2
    return colour + (textures.haze - colour) * veil


def plane_colour(copies: list[np.ndarray], uv: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """A repeated texture's colour (n, 3).

    Args:
        uv: (n, 2) texture coordinates; 1 is one repetition.
        footprint: (n,) a pixel's size in the same unit; a copy is chosen whose texels are about as large.
    """
    level = np.log2(np.maximum(footprint * max(copies[0].shape[:2]), 1.0))
    level = np.minimum(np.rint(level).astype(np.int32), len(copies) - 1)
    colour = np.empty((len(uv), 3), np.float32)
    for index in np.unique(level):
        mask = level == index
        colour[mask] = _bilinear(copies[index], uv[mask])
    return colour


def incoming(
    light: Light, point: np.ndarray, normal: np.ndarray, ray: np.ndarray, exponent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What n surface points send to the eye of a light of strength 1: diffusely (n,), and in the highlight (n,).

    Args:
        point, normal, ray: (n, 3); `ray` is the unit vector from the eye.
        exponent: (n,) of the highlight.
    """
    if light.directional:
        toward, strength = -light.direction, np.float32(1.0)
        facing, backward = normal @ toward, ray @ toward
    else:
        toward, strength = _from_lamp(light, point)
        facing, backward = np.einsum("ij,ij->i", normal, toward), np.einsum("ij,ij->i", ray, toward)
    # The half vector is h = toward - ray, hence n.h = n.toward - n.ray and |h|^2 = 2 - 2 toward.ray.
    length = np.sqrt(np.maximum(2.0 - 2.0 * backward, 1e-6))
    cosine = np.maximum((facing - np.einsum("ij,ij->i", normal, ray)) / length, 0.0)
    return strength * np.maximum(facing, 0.0), strength * (facing > 0) * cosine**exponent


def _from_lamp(light: Light, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (n, 3) towards a spot or point light, and the share (n,) of its strength that arrives."""
    toward = light.position - point
    distance = np.sqrt(np.einsum("ij,ij->i", toward, toward)) + np.float32(1e-6)
    toward /= distance[:, None]
    strength = np.ones_like(distance)
    if light.attenuation.any():
        constant, linear, quadratic = light.attenuation
        strength = 1.0 / np.maximum(constant + linear * distance + quadratic * distance**2, 1e-6)
    if light.cutoff > -1.0:
        along = np.maximum(-toward @ light.direction, 0.0)
        strength = strength * along**light.exponent * (along >= light.cutoff)
    return toward, strength.astype(np.float32)


def _image(model: mujoco.MjModel, texture: int) -> np.ndarray:
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    channels, start = int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    image = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
    return np.broadcast_to(image[..., : min(channels, 3)] / np.float32(255.0), (height, width, 3))


def _vertical_profile(cube: np.ndarray) -> np.ndarray:
    """Rows from straight up to straight down of a skybox (6 s, s, 3): right, left, up, down, front, back."""
    faces = cube.reshape(-1, cube.shape[1], cube.shape[1], 3) if cube.shape[0] == 6 * cube.shape[1] else cube[None]
    return np.ascontiguousarray(faces[-2 if len(faces) == 6 else 0].mean(1), np.float32)


def _smaller_copies(image: np.ndarray) -> list[np.ndarray]:
    copies = [np.ascontiguousarray(image, np.float32)]
    while min(copies[-1].shape[:2]) >= 2:
        height, width = (size // 2 for size in copies[-1].shape[:2])
        even = copies[-1][: 2 * height, : 2 * width]
        copies.append(even.reshape(height, 2, width, 2, 3).mean((1, 3)))
    return copies


def _bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of a repeated image (h, w, 3) at texture coordinates (n, 2)."""
    height, width = image.shape[:2]
    texels = image.reshape(-1, 3)
    across, down = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(across), np.floor(down)
    right_share, low_share = (across - left)[:, None], (down - top)[:, None]
    left, top = left.astype(np.int32) % width, top.astype(np.int32) % height
    right, low = (left + 1) % width, (top + 1) % height
    top *= width
    low *= width
    upper, lower = texels.take(top + left, 0), texels.take(low + left, 0)
    upper += (texels.take(top + right, 0) - upper) * right_share
    lower += (texels.take(low + right, 0) - lower) * right_share
    return upper + (lower - upper) * low_share
