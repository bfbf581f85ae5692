"""Soft silhouettes: against exact areas, against deodr's renderer, and what their gradients do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deodr.differentiable_renderer import Scene2D
from scipy.spatial.transform import Rotation

from wildhands_ros.evaluation.outline import Outline
from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hands import Side
from wildhands_ros.synthetic.renderer import face_edges
from wildhands_ros.training.silhouette import SilhouetteRasteriser, soft_silhouette


@pytest.fixture(scope="module")
def layer() -> HandLayer:
    return load_hand_model(None).layer(Side.RIGHT)


def hands(layer: HandLayer, count: int, size: int) -> np.ndarray:
    """Vertices (N, V, 2) of hands in random poses that fill about half of a picture of `size` pixels."""
    found = []
    for seed in range(count):
        rotations = Rotation.from_rotvec(np.random.default_rng(seed).normal(scale=0.3, size=(16, 3))).as_matrix()
        rotations[0] = Rotation.random(random_state=seed).as_matrix()
        vertices, _ = layer.numpy(rotations, np.zeros(10), np.zeros(3))
        vertices = vertices - vertices.mean(axis=0) + [0, 0, 0.4]
        found.append(vertices[:, :2] / vertices[:, 2:] * 1.8 * size + (size - 1) / 2)
    return np.stack(found)


def area(outline: Outline, pixels: np.ndarray, size: int, samples: int = 8) -> np.ndarray:
    """Exact silhouette (size, size): the share of each pixel that is covered, on a finer grid."""
    fine = outline.mask((pixels + 0.5) * samples - 0.5, size * samples)
    return fine.reshape(size, samples, size, samples).mean(axis=(1, 3))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(pixels, dtype=torch.float32, requires_grad=True)


def deodr_scene(outline: Outline, pixels: np.ndarray, size: int) -> Scene2D:
    """The side of the mesh that deodr's back-face culling keeps, white on black."""
    corners = pixels[outline.faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    kept = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0
    edges = face_edges(outline.faces)
    uses = np.bincount(edges[kept].ravel(), minlength=int(edges.max()) + 1)
    faces, count = outline.faces[kept].astype(np.uint32), len(pixels)
    return Scene2D(
        faces=faces, faces_uv=faces, ij=pixels.copy(), depths=np.ones(count), textured=np.zeros(len(faces), bool),
        uv=np.zeros((count, 2)), shade=np.ones(count), colors=np.ones((count, 1)), shaded=np.zeros(len(faces), bool),
        edgeflags=(uses == 1)[edges[kept]], height=size, width=size, nb_colors=1, texture=np.zeros((0, 0)),
        background_image=np.zeros((size, size, 1)), clockwise=False, backface_culling=True,
    )  # fmt: skip


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_hard_where_hardly_soft(layer: HandLayer) -> None:
    pixels, outline = hands(layer, 6, 56), Outline(layer.faces)
    soft = SilhouetteRasteriser(layer.faces, 56, sigma=0.05)(tensor(pixels)).detach().numpy()
    for found, vertices in zip(soft, pixels, strict=True):
        assert np.array_equal(found > 0.5, outline.mask(vertices, 56))


def test_a_picture_is_part_of_a_larger_one(layer: HandLayer) -> None:
    small, large, margin = SilhouetteRasteriser(layer.faces, 40), SilhouetteRasteriser(layer.faces, 64), 12
    pixels = tensor(hands(layer, 6, 40) * 2 - [30, 20])  # cut off
    cut_out = large(pixels + margin)[:, margin:-margin, margin:-margin]
    torch.testing.assert_close(small(pixels), cut_out, atol=1e-3, rtol=0)
    square = SilhouetteRasteriser(np.array([[0, 1, 2], [0, 2, 3]]), 8)
    found = square(torch.tensor([[[-9.0, -9], [-0.3, -9], [-0.3, 20], [-9, 20]]]))
    assert float(found[0, 4, 0]) == pytest.approx(1 / (1 + np.exp(0.3 / 0.7)), abs=1e-3)  # as near as any border


def test_no_hands_have_no_silhouettes(layer: HandLayer) -> None:
    assert SilhouetteRasteriser(layer.faces, 40)(torch.zeros(0, 778, 2)).shape == (0, 40, 40)


def test_value_is_nearly_the_covered_area(layer: HandLayer) -> None:
    pixels, outline = hands(layer, 6, 56), Outline(layer.faces)
    soft = SilhouetteRasteriser(layer.faces, 56, sigma=0.25)(tensor(pixels)).detach().numpy()
    for found, vertices in zip(soft, pixels, strict=True):
        exact = area(outline, vertices, 56)
        assert np.abs(found - exact).mean() < 0.01
        assert found.sum() == pytest.approx(exact.sum(), rel=0.02)


def test_softness_spreads_over_the_border_evenly() -> None:
    square = np.array([[0, 1, 2], [0, 2, 3]])
    corners = np.array([[[9.5, 9.5], [29.5, 9.5], [29.5, 29.5], [9.5, 29.5]]])
    row = SilhouetteRasteriser(square, 40, sigma=1.0)(tensor(corners))[0, 20].detach().numpy()
    distance = np.minimum(np.arange(40) - 9.5, 29.5 - np.arange(40))
    assert row == pytest.approx(1 / (1 + np.exp(-distance)), abs=0.003)


def test_value_agrees_with_deodr(layer: HandLayer) -> None:
    outline, size = Outline(layer.faces), 160
    rasteriser = SilhouetteRasteriser(layer.faces, size, sigma=0.25)
    for vertices in hands(layer, 4, size):
        theirs = deodr_scene(outline, vertices, size).render(sigma=0.3)[0][..., 0]
        ours = rasteriser(tensor(vertices[None]))[0].detach().numpy()
        assert np.abs(ours - theirs).mean() < 0.01
        both, either = (ours > 0.5) & (theirs > 0.5), (ours > 0.5) | (theirs > 0.5)
        assert both.sum() / either.sum() > 0.96


def test_gradient_agrees_with_deodr(layer: HandLayer) -> None:
    outline, size = Outline(layer.faces), 160
    rasteriser = SilhouetteRasteriser(layer.faces, size, sigma=0.5)
    for vertices in hands(layer, 4, size):
        target = outline.mask(vertices + [4, -2], size).astype(float)
        scene = deodr_scene(outline, vertices, size)
        scene.render_compare_and_backward(target[..., None], sigma=1.0)
        pixels = tensor(vertices[None])
        (rasteriser(pixels)[0] - torch.from_numpy(target)).square().sum().backward()
        assert pixels.grad is not None
        ours = pixels.grad[0].numpy()
        assert cosine(ours, scene.ij_b) > 0.85
        assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(scene.ij_b), rel=0.3)


def test_gradient_agrees_with_differences_of_the_exact_area(layer: HandLayer) -> None:
    outline, size = Outline(layer.faces), 96
    rasteriser = SilhouetteRasteriser(layer.faces, size, sigma=0.4)
    for vertices in hands(layer, 4, size):
        target = area(outline, vertices + [2.3, -1.2], size)
        pixels = tensor(vertices[None])
        (rasteriser(pixels)[0] - torch.from_numpy(target)).square().sum().backward()
        assert pixels.grad is not None
        from_middle = (vertices - vertices.mean(axis=0)) / 10
        turn = np.stack([-from_middle[:, 1], from_middle[:, 0]], axis=1)
        across, down = np.array([[1.0, 0]] * len(vertices)), np.array([[0, 1.0]] * len(vertices))
        directions = [across, down, from_middle, turn]
        ours = np.array([(pixels.grad[0].numpy() * d).sum() for d in directions])
        losses = [
            [((area(outline, vertices + step * d, size) - target) ** 2).sum() for step in (-0.25, 0.25)]
            for d in directions
        ]
        assert cosine(ours, np.diff(losses, axis=1)[:, 0] / 0.5) > 0.98


def test_a_hand_slides_into_its_mask(layer: HandLayer) -> None:
    size, outline = 56, Outline(layer.faces)
    vertices = hands(layer, 1, size)
    mask = torch.from_numpy(area(outline, vertices[0], size)).float()
    rasteriser, offset = SilhouetteRasteriser(layer.faces, size, sigma=1.0), torch.tensor([5.0, -4.0])
    offset.requires_grad_()
    optimiser = torch.optim.Adam([offset], lr=0.4)
    for _ in range(60):
        optimiser.zero_grad()
        (rasteriser(torch.from_numpy(vertices).float() + offset)[0] - mask).abs().mean().backward()
        optimiser.step()
    assert float(offset.detach().norm()) < 0.3


def test_batches_are_their_members_in_any_order(layer: HandLayer) -> None:
    pixels = hands(layer, 5, 40)
    rasteriser = SilhouetteRasteriser(layer.faces, 40)
    together = rasteriser(tensor(pixels)).detach()
    for i in reversed(range(5)):
        assert torch.allclose(rasteriser(tensor(pixels[i : i + 1]))[0].detach(), together[i], atol=1e-4)


def test_mirrored_hands_have_mirrored_silhouettes(layer: HandLayer) -> None:
    pixels = hands(layer, 3, 40)
    rasteriser = SilhouetteRasteriser(layer.faces, 40)
    mirrored = np.stack([39 - pixels[..., 0], pixels[..., 1]], axis=-1)
    assert torch.allclose(rasteriser(tensor(mirrored)), rasteriser(tensor(pixels)).flip(-1), atol=1e-3)


def test_beside_the_picture_and_all_over_it(layer: HandLayer) -> None:
    rasteriser = SilhouetteRasteriser(layer.faces, 32)
    vertices = hands(layer, 1, 32)
    assert rasteriser(tensor(vertices + 100)).max() < 1e-3
    palm = np.concatenate([(vertices - vertices[:, :1]) * 1e3 + 15, vertices])
    middle = palm[0].mean(axis=0)
    assert np.isfinite(rasteriser(tensor(palm - middle)).detach().numpy()).all()
    square = SilhouetteRasteriser(np.array([[0, 1, 2], [0, 2, 3]]), 32)
    corners = tensor(1e3 * np.array([[[-1, -1], [1, -1], [1, 1], [-1, 1]]]))
    found = square(corners)
    assert found.min() > 0.999
    found.sum().backward()
    assert corners.grad is not None and torch.isfinite(corners.grad).all()


def test_nonsense_gives_zeros_and_finite_gradients(layer: HandLayer) -> None:
    pixels = hands(layer, 2, 32)
    pixels[0, 5] = np.nan
    vertices = tensor(pixels)
    found = SilhouetteRasteriser(layer.faces, 32)(vertices)
    assert found[1].max() > 0.9 and not found[0].any()
    found.sum().backward()
    assert vertices.grad is not None and torch.isfinite(vertices.grad).all()
    collapsed = tensor(np.full((1, layer.vertex_count, 2), 7.0))
    flat = SilhouetteRasteriser(layer.faces, 32)(collapsed)
    flat.sum().backward()
    assert collapsed.grad is not None and torch.isfinite(collapsed.grad).all() and flat.max() <= 0.5


def test_half_precision_is_computed_in_single(layer: HandLayer) -> None:
    pixels = torch.from_numpy(hands(layer, 1, 32))
    rasteriser = SilhouetteRasteriser(layer.faces, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rasteriser(pixels.float())
    assert found.dtype == torch.float32 and torch.equal(found, rasteriser(pixels))


def test_crop_units_reach_from_edge_to_edge() -> None:
    corners = torch.tensor([[[-1.0, -1], [0, -1], [0, 1], [-1, 1]]])
    found = soft_silhouette(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), 16, sigma=0.05)[0]
    assert found[:, :8].min() > 0.99 and found[:, 8:].max() < 0.01


def test_wrong_shapes_are_refused(layer: HandLayer) -> None:
    with pytest.raises(ValueError, match="N, V, 2"):
        SilhouetteRasteriser(layer.faces, 32)(torch.zeros(1, 778, 3))
    with pytest.raises(ValueError, match="sigma"):
        SilhouetteRasteriser(layer.faces, 32, sigma=0)
