"""Rotation vectors and matrices in torch: batched, differentiable everywhere, accurate near 0 and near π.

The NumPy counterparts are in `wildhands_ros.rotations`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exp_so3_torch(vectors: Tensor) -> Tensor:
    """Rotation vectors (..., 3) in radians → matrices (..., 3, 3), by Rodrigues' formula."""
    angle2 = (vectors * vectors).sum(-1)[..., None, None]
    small = angle2 < 1e-6
    safe = torch.where(small, torch.ones_like(angle2), angle2)  # keeps 0/0 out of the gradient too
    angle = safe.sqrt()
    a = torch.where(small, 1 - angle2 / 6, angle.sin() / angle)
    # 2 sin²(θ/2) instead of 1 − cos θ, which loses all digits for small θ in float32
    b = torch.where(small, 0.5 - angle2 / 24, 2 * (angle / 2).sin() ** 2 / safe)
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return identity + a * cross + b * (cross @ cross)


def log_so3_torch(matrices: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) → rotation vectors (..., 3) with angles in [0, π]."""
    m = matrices
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    # Four times the quaternion's products with each of its components; the largest is well conditioned (Shepperd 1978)
    products = torch.stack(
        [
            torch.stack([1 + xx - yy - zz, xy, xz, wx], dim=-1),
            torch.stack([xy, 1 - xx + yy - zz, yz, wy], dim=-1),
            torch.stack([xz, yz, 1 - xx - yy + zz, wz], dim=-1),
            torch.stack([wx, wy, wz, 1 + xx + yy + zz], dim=-1),
        ],
        dim=-2,
    )
    best = products.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*m.shape[:-2], 1, 4)
    q = torch.nn.functional.normalize(products.gather(-2, best)[..., 0, :], dim=-1)
    q = torch.where(q[..., 3:] < 0, -q, q)  # w ≥ 0: the shorter way round
    xyz, w = q[..., :3], q[..., 3:]
    sine2 = (xyz * xyz).sum(-1, keepdim=True)
    small = sine2 < 1e-8
    sine = torch.where(small, torch.ones_like(sine2), sine2).sqrt()
    scale = torch.where(small, 2 + sine2 / 3, 2 * torch.atan2(sine, w) / sine)
    return xyz * scale
