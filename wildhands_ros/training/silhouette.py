"""Soft silhouettes of meshes, differentiable, on any device.

The idea is that of Soft Rasterizer (Liu et al., ICCV 2019): a pixel belongs to the silhouette with probability
sigmoid(d / sigma), d being its distance to the silhouette's border, positive inside. Theirs adds up all triangles;
here only the border itself counts, which gives the same near it and costs a hundredth:

1. Edges between triangles that face the viewer and triangles that do not bound a patch; crossings of pixel rows with
   them, counted with signs, say which pixels it covers (see `evaluation.outline`, of which this is the batched form).
2. Of these edges, those with uncovered ground on their far side are the silhouette's border.
3. For every pixel near the border its nearest point is sought without gradients; then its distance alone is computed
   with gradients, which reach the two vertices of one edge. Pixels further away are plainly 0 or 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wildhands_ros.evaluation.outline import Outline

_PAIRS_AT_ONCE = {"cpu": 200_000, "cuda": 20_000_000}  # of pixels and edges; some 20 bytes each, in cache on a CPU
_REACH = 6.0  # sigmas from the border beyond which pixels are plain: 0.0025 or less from 0 or 1
_ASIDE = 0.01  # pixels beside an edge at which it is tested whether the silhouette ends there
_TINY = 1e-6  # square pixels


def soft_silhouette(places: Tensor, faces: Tensor, size: int, sigma: float = 0.7) -> Tensor:
    """Soft silhouettes (N, size, size) of vertices (N, V, 2) in a crop's units, −1 to 1 from edge to edge.

    faces: (F, 3). Keep a `SilhouetteRasteriser` where milliseconds count: this makes one each time (4 ms).
    """
    rasteriser = SilhouetteRasteriser(faces.detach().cpu().numpy(), size, sigma).to(places.device)
    return torch.as_tensor(rasteriser((places.float() + 1) * (size / 2) - 0.5))


class SilhouetteRasteriser(nn.Module):
    """Soft silhouettes of one mesh in many poses.

    faces: (F, 3) vertex numbers; openings (a hand's wrist) are closed. size: edge of the picture in pixels.
    sigma: softness in pixels: the edge falls from 0.88 to 0.12 over 4 sigma. At 0.3 it is about as sharp as an
        anti-aliased picture; wider ones pull from further away.

        silhouettes = SilhouetteRasteriser(layer.faces, size=56)
        loss = (silhouettes(pixels) - masks).abs().mean()
    """

    edges: Tensor
    edge_faces: Tensor
    faces: Tensor

    def __init__(self, faces: NDArray[np.integer], size: int, sigma: float = 0.7) -> None:
        super().__init__()
        if size < 1 or not sigma > 0:
            raise ValueError(f"size and sigma must be positive, not {size} and {sigma}")
        outline = Outline(faces)
        self.size = size
        self.sigma = sigma
        self._reach = math.ceil(_REACH * sigma) + 1
        self.register_buffer("edges", torch.tensor(outline.edges), persistent=False)
        self.register_buffer("edge_faces", torch.tensor(outline.edge_faces), persistent=False)
        self.register_buffer("faces", torch.tensor(outline.faces), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Vertices (N, V, 2) in pixels of the picture, pixel centres at integers → (N, size, size), 0 to 1.

        All vertices must lie in front of the camera. Vertices that are not finite give silhouettes of zeros.
        Computed in float32 also under autocast.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 2:
            raise ValueError(f"pixels have shape {tuple(pixels.shape)}, expected (N, V, 2)")
        if not len(pixels):
            return torch.zeros(0, self.size, self.size, device=pixels.device)
        with torch.autocast(pixels.device.type, enabled=False):
            return self._silhouettes(pixels.float())

    def _silhouettes(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            known = torch.nan_to_num(pixels, nan=-1e4, posinf=1e4, neginf=-1e4).clamp(-1e4, 1e4)
            vertices, used = self._border(known)  # (N, K, 2), (N, K)
            start, end = _ends(known, vertices)
            beyond = self._covered(start, end, used)  # also around the picture: a border there is as near
            inside = slice(self._reach, self._reach + self.size)
            covered = beyond[:, inside, inside]
            outermost, used = _first(used & self._has_ground_beside(start, end, used))
            vertices = vertices.gather(1, outermost[..., None].expand(-1, -1, 2))
            start, end = _ends(known, vertices)
            near_border = self._near_border(beyond)[:, inside, inside]
            near, is_near = _first(near_border.flatten(1))  # (N, P) numbers of pixels
            places = torch.stack([near % self.size, near // self.size], dim=-1).to(pixels)
            nearest = self._nearest(places, start, end, used)  # (N, P)
            is_near &= used.any(dim=1, keepdim=True)
            finite = torch.isfinite(pixels)
            whole = finite.flatten(1).all(dim=1, keepdim=True)
            plain = (covered.flatten(1) & whole).to(pixels)
            side = torch.where(plain.gather(1, near) > 0, 1.0, -1.0)
        chosen = vertices.gather(1, nearest[..., None].expand(-1, -1, 2))
        soft = torch.sigmoid(side * _distances(places, *_ends(torch.where(finite, pixels, known), chosen)) / self.sigma)
        soft = torch.where(is_near & whole, soft, plain.gather(1, near))
        return plain.scatter(1, near, soft).view(covered.shape)

    def _near_border(self, covered: Tensor) -> Tensor:
        """(N, S, S): pixels that have both covered and uncovered ones within reach."""
        reach = self._reach
        both = torch.stack([covered, ~covered], dim=1).to(torch.float32)
        spread = torch.nn.functional.max_pool2d(both, (2 * reach + 1, 1), 1, (reach, 0))
        spread = torch.nn.functional.max_pool2d(spread, (1, 2 * reach + 1), 1, (0, reach))
        return spread.amin(dim=1) > 0

    def _border(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Edges (N, K, 2) of the patches of positive triangles, in their direction, and which of the K are used."""
        corners = pixels[:, self.faces]  # (N, F, 3, 2)
        a, b = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
        positive = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0] > 0
        first, second = positive[:, self.edge_faces[:, 0]], positive[:, self.edge_faces[:, 1]]
        on_border = first != second
        index, used = _first(on_border)
        vertices = self.edges[index]
        turned = second.gather(1, index)[..., None]
        return torch.where(turned, vertices.flip(-1), vertices), used

    def _covered(self, start: Tensor, end: Tensor, used: Tensor) -> Tensor:
        """(N, S, S): pixels of the picture and of a frame within reach around it whose centres the patch covers."""
        count, first, size = len(start), -self._reach, self.size + 2 * self._reach
        rows = torch.arange(first, first + size, device=start.device, dtype=start.dtype).view(1, 1, size)
        ax, ay, bx, by = (t[..., None] for t in (start[..., 0], start[..., 1], end[..., 0], end[..., 1]))
        down, up = ay <= rows, by <= rows  # (N, K, S)
        crosses = (down != up) & used[..., None]
        x = ax + (rows - ay) * ((bx - ax) / torch.where(by == ay, torch.ones_like(by), by - ay))
        last = (torch.ceil(x) - 1 - first).clamp(-1, size - 1)  # the last pixel to the left of the crossing; −1: none
        signs = torch.where(crosses, torch.where(down, -1.0, 1.0), 0.0)
        cell = (torch.arange(count, device=start.device).view(-1, 1, 1) * size + rows.long() - first) * (size + 1)
        sums = torch.zeros(count * size * (size + 1), device=start.device)
        sums.index_add_(0, (cell + last.long() + 1).flatten(), signs.flatten())
        sums = sums.view(count, size, size + 1)[..., 1:]
        return sums.flip(-1).cumsum(-1).flip(-1).abs() > 0.5

    def _has_ground_beside(self, start: Tensor, end: Tensor, used: Tensor) -> Tensor:
        """(N, K): edges whose far side, at a quarter or three quarters of their length, nothing covers."""
        along = end - start
        aside = torch.stack([along[..., 1], -along[..., 0]], dim=-1)
        aside = aside / aside.norm(dim=-1, keepdim=True).clamp(min=1e-9) * _ASIDE
        beside = [start + share * along + aside for share in (0.25, 0.75)]  # positive triangles lie on the other side
        points = torch.cat(beside, dim=1)
        at_once = _chunk(points.shape[1] * start.shape[1], points)
        parts = zip(*(tensor.split(at_once) for tensor in (points, start, end, used)), strict=True)
        covered = torch.cat([_winding(*part) for part in parts])
        return (covered.abs() < 0.5).view(len(start), 2, -1).any(dim=1)

    def _nearest(self, places: Tensor, start: Tensor, end: Tensor, used: Tensor) -> Tensor:
        """For each place (N, P, 2) the edge that comes nearest, (N, P)."""
        at_once = _chunk(places.shape[1] * start.shape[1], places)
        parts = zip(*(tensor.split(at_once) for tensor in (places, start, end, used)), strict=True)
        return torch.cat([_nearest_edge(*part) for part in parts])


def _nearest_edge(places: Tensor, start: Tensor, end: Tensor, used: Tensor) -> Tensor:
    along = end - start
    length = along.square().sum(-1).clamp(min=_TINY)[:, None]
    # |p − a|² and (p − a)·(b − a) for all pairs, as products of thin matrices; without |p|², the same for all edges
    dot = torch.baddbmm(-(start * along).sum(-1)[:, None], places, along.transpose(1, 2))
    unused = torch.where(used, 0.0, torch.inf)
    square = torch.baddbmm((start.square().sum(-1) + unused)[:, None], places, -2 * start.transpose(1, 2))
    share = (dot / length).clamp_(0, 1)
    dot *= -2
    dot.addcmul_(share, length)
    return square.addcmul_(share, dot).argmin(dim=2)


def _distances(places: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance of each place from its own edge, all (N, P, 2) → (N, P)."""
    along = end - start
    offset = places - start
    share = (offset * along).sum(-1) / along.square().sum(-1).clamp(min=_TINY)
    rest = offset - share.clamp(0, 1)[..., None] * along
    return (rest.square().sum(-1) + _TINY).sqrt()


def _chunk(pairs: int, like: Tensor) -> int:
    """How many samples of so many pairs are taken at once."""
    return max(_PAIRS_AT_ONCE.get(like.device.type, 1_000_000) // pairs, 1)


def _first(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the wanted items (N, M) → (N, K), K the most that a row wants, and which of them are wanted."""
    count = max(int(wanted.sum(dim=1).max()), 1)
    index = torch.topk(wanted.to(torch.uint8), count, dim=1, sorted=False).indices
    return index, wanted.gather(1, index)


def _ends(pixels: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Where edges (N, K, 2) of vertex numbers start and end, (N, K, 2) each."""
    start, end = (pixels.gather(1, vertices[..., i : i + 1].expand(-1, -1, 2)) for i in (0, 1))
    return start, end


def _winding(points: Tensor, start: Tensor, end: Tensor, used: Tensor) -> Tensor:
    """How often edges (N, K, 2) go round points (N, Q, 2) → (N, Q)."""
    ax, ay, bx, by = (t[:, None] for t in (start[..., 0], start[..., 1], end[..., 0], end[..., 1]))
    px, py = points[..., 0, None], points[..., 1, None]
    down = ay <= py
    crosses = (down != (by <= py)) & used[:, None]
    x = ax + (py - ay) * ((bx - ax) / torch.where(by == ay, torch.ones_like(by), by - ay))
    return torch.where(crosses & (x > px), torch.where(down, -1.0, 1.0), 0.0).sum(dim=-1)
