"""Triangle meshes with a colour at each vertex, drawn through any camera over a background, by deodr's rasteriser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import WildHandsError
from wildhands_ros.libraries import how_to_get

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

_EDGE_WIDTH = 1.0  # pixels over which silhouettes blend into what lies behind
_FAR_OUTSIDE = 1.0  # picture sizes: triangles with a corner beyond are dropped


@dataclass(frozen=True)
class Mesh:
    """vertices: (V, 3) metres in the camera frame. faces: (F, 3), counter-clockwise from outside. values: (V, C) at the
    vertices, red, green and blue (0 to 255) first; all meshes of a picture have equally many.
    edges: (F, 3), see `face_edges`.
    """

    vertices: FloatArray
    faces: NDArray[np.int64]
    values: FloatArray
    edges: NDArray[np.int64]


def face_edges(faces: NDArray[np.integer]) -> NDArray[np.int64]:
    """For each face the numbers of its edges (0→1, 1→2, 2→0), (F, 3); an edge that two faces share has one number."""
    following = np.roll(faces, -1, axis=1).astype(np.int64)
    low, high = np.minimum(faces, following), np.maximum(faces, following)
    _, numbers = np.unique((low * (int(faces.max()) + 1) + high).ravel(), return_inverse=True)
    return np.asarray(numbers.reshape(-1, 3), dtype=np.int64)


def render(meshes: Sequence[Mesh], camera: Camera, background: Image) -> tuple[Image, Image]:
    """Draws meshes over the background, nearest surface first, with smooth silhouettes.

    background: (H, W, 3). Values are linear across each triangle in the picture, so triangles should be small where the
    lens bends lines. Returns the picture (H, W, 3), and the values past the third, (H, W, C - 3), 0 in the background.
    Raises WildHandsError where deodr is not installed.
    """
    picture = background.copy()
    channels = meshes[0].values.shape[1] if meshes else 3
    extra = np.zeros((*picture.shape[:2], channels - 3), np.float32)
    for group in _groups([_seen(mesh, camera) for mesh in meshes]):
        _draw(group, picture, extra)
    return picture, extra


@dataclass(frozen=True)
class _Seen:
    """A mesh in the picture: pixels (V, 2), distances (V,), values (V, C), the faces that face the viewer (F, 3), which
    of their edges lie on the silhouette (F, 3), and the box x0, y0, x1, y1 around them."""

    pixels: FloatArray
    distances: FloatArray
    values: FloatArray
    faces: NDArray[np.int64]
    silhouette: NDArray[np.bool_]
    box: tuple[int, int, int, int]


def _seen(mesh: Mesh, camera: Camera) -> _Seen:
    pixels = camera.project(mesh.vertices)
    size = np.array([camera.width, camera.height])
    with np.errstate(invalid="ignore"):
        near = np.all(np.abs(pixels - size / 2) < (0.5 + _FAR_OUTSIDE) * size, axis=1)
    pixels = np.where(near[:, None], pixels, 0.0)
    a, b, c = (pixels[mesh.faces[:, i]] for i in range(3))
    front = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]) < 0
    if not near.all():
        front &= near[mesh.faces].all(axis=1)
    faces, edges = mesh.faces[front], mesh.edges[front]
    uses = np.bincount(edges.ravel(), minlength=int(mesh.edges.max()) + 1)
    used = np.zeros(len(pixels), bool)
    used[faces] = True
    box = (0, 0, 0, 0)
    if len(faces):
        x0, y0 = np.maximum(np.floor(pixels[used].min(axis=0)) - 2, 0)
        x1, y1 = np.minimum(np.ceil(pixels[used].max(axis=0)) + 3, size)
        box = int(x0), int(y0), int(x1), int(y1)
    distances = np.linalg.norm(mesh.vertices, axis=1)
    return _Seen(pixels, distances, mesh.values, faces, (uses == 1)[edges], box)


def _groups(seen: list[_Seen]) -> list[list[_Seen]]:
    """Meshes that may hide each other, together; what lies outside the picture is left out."""
    groups: list[list[_Seen]] = []
    for mesh in seen:
        x0, y0, x1, y1 = mesh.box
        if x1 <= x0 or y1 <= y0:
            continue
        touching = [group for group in groups if any(_overlap(mesh.box, other.box) for other in group)]
        groups = [group for group in groups if not any(group is t for t in touching)]
        groups.append([other for group in touching for other in group] + [mesh])
    return groups


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw(group: list[_Seen], picture: Image, extra: Image) -> None:
    """Draws meshes that may hide each other, in place."""
    try:
        from deodr.differentiable_renderer import Scene2DBase, renderScene
    except ImportError as error:
        raise WildHandsError(
            f"rendering needs the library deodr, which cannot be imported ({error}; it is for x86_64 only): "
            f"{how_to_get('deodr trimesh')}; or use a recorded sequence"
        ) from error

    x0, y0 = (min(mesh.box[i] for mesh in group) for i in (0, 1))
    x1, y1 = (max(mesh.box[i] for mesh in group) for i in (2, 3))
    window = np.s_[y0:y1, x0:x1]
    background = np.concatenate([picture[window], extra[window]], axis=-1, dtype=np.float64)
    starts = np.cumsum([0, *(len(mesh.pixels) for mesh in group)])
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(group, starts, strict=False)]).astype(np.uint32)
    pixels = np.concatenate([mesh.pixels for mesh in group]) - (x0, y0)
    scene = Scene2DBase(
        faces=faces,
        faces_uv=faces,
        ij=pixels,
        depths=np.concatenate([mesh.distances for mesh in group]),
        textured=np.zeros(len(faces), bool),
        uv=np.zeros((len(pixels), 2)),
        shade=np.ones(len(pixels)),
        colors=np.concatenate([mesh.values for mesh in group]),
        shaded=np.zeros(len(faces), bool),
        edgeflags=np.concatenate([mesh.silhouette for mesh in group]),
        height=y1 - y0,
        width=x1 - x0,
        nb_colors=background.shape[2],
        texture=np.zeros((0, 0)),
        background_image=background,
        clockwise=False,
        backface_culling=True,
    )
    drawn = np.empty_like(background)
    renderScene(scene, _EDGE_WIDTH, drawn, np.empty(background.shape[:2]))
    picture[window], extra[window] = drawn[..., :3], drawn[..., 3:]
