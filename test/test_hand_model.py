"""The open hand and the layer that evaluates hand models."""

import numpy as np
import pytest
import smplx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from smplx.utils import Struct

from wildhands_ros.errors import ModelFileError
from wildhands_ros.hand_model import HandData, HandLayer, hand_anatomy, load_hand_model
from wildhands_ros.hand_model.torch_rotations import exp_so3_torch, log_so3_torch
from wildhands_ros.hands import FINGERS, KEYPOINT_NAMES, MANO_TO_KEYPOINTS, SKELETON, Side, wrist_rotation
from wildhands_ros.rotations import exp_so3, log_so3

IDENTITY = np.tile(np.eye(3), (16, 1, 1))
MIRROR = np.diag([-1.0, 1.0, 1.0])
MODEL = load_hand_model()
# The first of each finger's three rows in HandAnatomy
FINGER_ROWS = {"index": 0, "middle": 3, "pinky": 6, "ring": 9, "thumb": 12}


def random_hand(seed, spread=0.6):
    rng = np.random.default_rng(seed)
    return exp_so3(rng.normal(size=(16, 3)) * spread), rng.normal(size=10), rng.normal(size=3)


def with_everything(side, seed=5):
    """The open hand with a mean pose and pose-dependent shape, as MANO has them."""
    rng = np.random.default_rng(seed)
    data = MODEL.layer(side).data
    mean, posedirs = 0.3 * rng.normal(size=45), 0.002 * rng.normal(size=data.posedirs.shape)
    mean[::4], posedirs[::3] = 0, 0  # neither is without zeros
    return HandLayer(HandData(**{**vars(data), "hands_mean": mean, "posedirs": posedirs}))


def plain_smplx(data):
    """smplx's MANO in double precision, made without any of our code."""
    return smplx.MANO(
        "", is_rhand=data.side is Side.RIGHT, use_pca=False, flat_hand_mean=False, num_betas=10, dtype=torch.float64,
        data_struct=Struct(
            v_template=data.template, f=data.faces, shapedirs=data.shapedirs, posedirs=data.posedirs,
            J_regressor=data.joint_regressor, weights=data.weights,
            kintree_table=np.array([[-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], range(16)]),
            hands_components=data.hands_components, hands_mean=data.hands_mean,
        ),
    )  # fmt: skip


# --- the layer against smplx ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("make", [MODEL.layer, with_everything], ids=["open", "mean pose and posedirs"])
def test_both_paths_equal_smplx(make, side):
    layer = make(side)
    reference = plain_smplx(layer.data)
    for seed in range(5):
        pose, betas, translation = random_hand(seed)
        vectors = log_so3(pose).reshape(1, 48)
        out = reference(
            global_orient=torch.tensor(vectors[:, :3]), hand_pose=torch.tensor(vectors[:, 3:]),
            betas=torch.tensor(betas[None]), transl=torch.tensor(translation[None]),
        )  # fmt: skip
        truth = out.vertices[0].detach().numpy()
        joints = np.concatenate([out.joints[0].detach().numpy(), truth[layer.tip_vertices]])[list(MANO_TO_KEYPOINTS)]

        vertices, keypoints = layer.numpy(pose, betas, translation)
        np.testing.assert_allclose(vertices, truth, atol=1e-7)
        np.testing.assert_allclose(keypoints, joints, atol=1e-7)
        mesh = layer.forward(*(torch.tensor(x[None]) for x in (pose, betas, translation)))
        np.testing.assert_allclose(mesh.vertices[0].numpy(), truth, atol=2e-6)
        np.testing.assert_allclose(mesh.joints[0].numpy(), joints, atol=2e-6)


def test_a_batch_gives_what_single_hands_give():
    layer = MODEL.right
    hands = [random_hand(seed) for seed in range(3)]
    mesh = layer.forward(*(torch.tensor(np.stack(x)) for x in zip(*hands, strict=True)))
    assert mesh.vertices.shape == (3, layer.vertex_count, 3) and mesh.joints.shape == (3, 21, 3)
    for hand, vertices in zip(hands, mesh.vertices.numpy(), strict=True):
        np.testing.assert_allclose(vertices, layer.numpy(*hand)[0], atol=2e-6)


def test_gradients_reach_every_input_and_are_finite_at_rest():
    layer = with_everything(Side.RIGHT)
    inputs = [torch.tensor(IDENTITY[None]), torch.zeros(1, 10), torch.zeros(1, 3)]
    for tensor in inputs:
        tensor.requires_grad_()
    mesh = layer.forward(*inputs)
    (mesh.vertices.square().sum() + mesh.joints.square().sum()).backward()
    for tensor in inputs:
        assert torch.isfinite(tensor.grad).all() and tensor.grad.abs().sum() > 0


def test_making_the_layer_prints_nothing(capsys):
    HandLayer(MODEL.right.data).module()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name, shapes", [("pose", ((15, 3, 3), (10,), (3,))), ("betas", ((16, 3, 3), (9,), (3,))),
                     ("translation", ((16, 3, 3), (10,), (1, 3)))],
)  # fmt: skip
def test_wrong_shapes_are_named(name, shapes):
    with pytest.raises(ValueError, match=name):
        MODEL.right.numpy(*(np.zeros(shape) for shape in shapes))


def test_a_pose_of_the_wrong_shape_is_named_by_forward():
    for shape in ((16, 3, 3), (1, 15, 3, 3), (1, 48)):
        with pytest.raises(ValueError, match="pose"):
            MODEL.right.forward(torch.zeros(shape), torch.zeros(1, 10), torch.zeros(1, 3))


# --- rotations in torch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-5, 3e-4, 1e-3, 2e-3, 0.1, 1.0, 3.0, np.pi - 1e-3, np.pi - 1e-6])
def test_torch_rotation_vectors_are_accurate_at_every_angle(angle):
    axes = np.random.default_rng(3).normal(size=(50, 3))
    vectors = angle * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    exact = exp_so3(vectors)
    single = torch.tensor(exact, dtype=torch.float32)
    np.testing.assert_allclose(exp_so3_torch(torch.tensor(vectors, dtype=torch.float32)).numpy(), exact, atol=1e-6)
    # near π float32 cannot tell v from its opposite; the rotation is what counts
    np.testing.assert_allclose(exp_so3(log_so3_torch(single).double().numpy()), exact, atol=2e-6)
    if angle < 3.1:
        np.testing.assert_allclose(log_so3_torch(single).numpy(), vectors, atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.5, 3.0])
def test_torch_rotations_have_right_gradients(angle):
    vectors = angle * torch.nn.functional.normalize(torch.tensor([[1.0, -2, 0.5], [0.1, 0.3, 2]]).double(), dim=-1)
    vectors.requires_grad_()
    assert torch.autograd.gradcheck(exp_so3_torch, vectors, eps=1e-6, atol=1e-5)
    assert torch.autograd.gradcheck(lambda v: log_so3_torch(exp_so3_torch(v)), vectors, eps=1e-6, atol=1e-5)


# --- the mean pose --------------------------------------------------------------------------------------------------


def test_identity_pose_is_the_mean_pose():
    layer = with_everything(Side.LEFT)
    turned = layer.rotations_from_pose(IDENTITY)
    np.testing.assert_allclose(log_so3(turned[1:]).ravel(), layer.skeleton().hands_mean, atol=1e-9)
    np.testing.assert_allclose(turned[0], np.eye(3))


def test_poses_and_rotations_are_inverse():
    layer = with_everything(Side.RIGHT)
    pose, _, _ = random_hand(1, 0.4)
    np.testing.assert_allclose(layer.pose_from_rotations(layer.rotations_from_pose(pose)), pose, atol=1e-9)
    np.testing.assert_allclose(MODEL.right.rotations_from_pose(pose), pose)
    for convert in (MODEL.right.rotations_from_pose, MODEL.right.pose_from_rotations):
        convert(pose)[3] = np.nan  # what it gives is the caller's
    assert np.isfinite(pose).all()


# --- left and right -------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1.5))
def test_the_left_hand_is_the_mirrored_right_hand(seed, spread):
    pose, betas, translation = random_hand(seed, spread)
    right_vertices, right_joints = MODEL.right.numpy(pose, betas, translation)
    left_vertices, left_joints = MODEL.left.numpy(MIRROR @ pose @ MIRROR, betas, MIRROR @ translation)
    np.testing.assert_allclose(left_vertices, right_vertices @ MIRROR, atol=1e-7)
    np.testing.assert_allclose(left_joints, right_joints @ MIRROR, atol=1e-7)


@pytest.mark.parametrize("side", Side)
def test_faces_look_outwards(side):
    layer = MODEL.layer(side)
    corners = layer.data.template[layer.faces]
    volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    # the open wrist leaves out little, since the origin is in the palm
    assert 1e-4 < volume < 6e-4  # cubic metres: a hand displaces 0.2 to 0.5 litres


# --- the open hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", Side)
def test_size_of_an_average_adult(side):
    joints = MODEL.layer(side).joint_template
    middle = joints[[0, *FINGERS["middle"]]]
    assert 0.180 < np.linalg.norm(np.diff(middle, axis=0), axis=1).sum() < 0.195
    assert 0.050 < np.linalg.norm(joints[5] - joints[17]) < 0.070
    bones = {child: np.linalg.norm(joints[child] - joints[parent]) for parent, child in SKELETON}
    # proximal phalanges of Buryanov and Kotiuk 2010: index, middle, ring, pinky
    for keypoint, length in zip((6, 10, 14, 18), (0.0398, 0.0446, 0.0414, 0.0327), strict=True):
        assert bones[keypoint] == pytest.approx(length, rel=0.03)
    for finger in ("index", "middle", "ring", "pinky"):  # bones shorten towards the tip, whose flesh makes up for it
        base, middle_joint, end, _ = FINGERS[finger]
        assert bones[base] > bones[middle_joint] > bones[end]


@pytest.mark.parametrize("side", Side)
def test_keypoints_are_the_joints_of_their_names(side):
    layer = MODEL.layer(side)
    joints = layer.joint_template
    frame = wrist_rotation(joints, side)
    local = (joints - joints[0]) @ frame  # x to the fingers, z out of the back
    thumbwards = local[:, 1] * (1 if side is Side.RIGHT else -1)
    for finger, keypoints in FINGERS.items():
        assert [KEYPOINT_NAMES[k].split("_")[0] for k in keypoints] == [finger] * 4
        assert (np.diff(np.linalg.norm(joints[[0, *keypoints]] - joints[0], axis=1)) > 0).all()
    knuckles = [thumbwards[FINGERS[finger][0]] for finger in ("thumb", "index", "middle", "ring", "pinky")]
    assert np.argsort(knuckles[1:]).tolist() == [3, 2, 1, 0] and knuckles[0] > 0
    assert (local[[8, 12, 16, 20], 2] < 0).all()  # relaxed fingers bend towards the palm


@pytest.mark.parametrize("side", Side)
def test_mano_rest_axes(side):
    layer = MODEL.layer(side)
    frame = wrist_rotation(layer.joint_template, side)
    x = -1 if side is Side.RIGHT else 1
    np.testing.assert_allclose(frame[:, 0], [x, 0, 0], atol=0.02)  # to the middle finger's knuckle
    np.testing.assert_allclose(frame[:, 2], [0, 1, 0], atol=0.02)  # out of the back


@pytest.mark.parametrize("side", Side)
def test_tips_are_on_the_skin_at_the_ends_of_the_fingers(side):
    layer = MODEL.layer(side)
    vertices, joints = layer.numpy(IDENTITY, np.zeros(10), np.zeros(3))
    for order, keypoints in enumerate(FINGERS.values()):
        tip = vertices[layer.tip_vertices[order]]
        np.testing.assert_allclose(joints[keypoints[3]], tip)
        bone = joints[keypoints[3]] - joints[keypoints[2]]
        own = layer.data.weights[:, layer.skeleton().tip_parents[order]] > 0.9
        along = (vertices[own] - tip) @ bone / np.linalg.norm(bone)
        assert along.max() < 0.003  # hardly anything of the finger lies farther out


def test_one_sigma_of_the_first_beta_is_how_much_adults_differ():
    def length(betas):
        joints = MODEL.right.rest_joints(betas)[[0, 9, 10, 11, 12]]
        return np.linalg.norm(np.diff(joints, axis=0), axis=1).sum()

    one = np.eye(10)
    growth = [length(sigma) / length(np.zeros(10)) - 1 for sigma in one]
    assert 0.045 < growth[0] < 0.07
    assert np.abs(growth[1:]).max() < 0.01  # so a prior on the first beta is a prior on size


def test_joints_are_regressed_from_vertices_within_the_hand():
    data = MODEL.right.data
    assert data.joint_regressor.min() >= 0
    np.testing.assert_allclose(data.joint_regressor.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(data.weights.sum(axis=1), 1, atol=1e-5)
    assert data.weights.min() >= 0


def test_mesh_is_one_clean_surface_open_at_the_wrist():
    data = MODEL.right.data
    edges = np.concatenate([data.faces[:, [0, 1]], data.faces[:, [1, 2]], data.faces[:, [2, 0]]]).tolist()
    directed = {tuple(edge) for edge in edges}
    assert len(directed) == len(edges)  # every edge at most once in each direction
    rim = {a for a, b in directed if (b, a) not in directed}
    assert len(data.template) == 778 and len(np.unique(data.faces)) == 778
    assert len(data.template) - len({tuple(sorted(e)) for e in edges}) + len(data.faces) == 1  # a disc
    assert rim == set(np.flatnonzero(data.region == 3).tolist())
    assert np.linalg.norm(data.template[sorted(rim)] - MODEL.right.joint_template[0], axis=1).max() < 0.05


def test_skin_factors_and_regions():
    data = MODEL.right.data
    assert 0.5 < data.albedo.min() and data.albedo.max() < 1.3
    normals = np.zeros_like(data.template)
    corners = data.template[data.faces]
    np.add.at(normals, data.faces, np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, None])
    thumb = data.weights[:, 13:].sum(axis=1) > 0.1
    assert np.mean(normals[(data.region == 1) & ~thumb, 1] < 0) > 0.95  # palm looks down
    assert np.mean(normals[(data.region == 2) & ~thumb, 1] > 0) > 0.95  # nails look up
    for joint in (3, 6, 9, 12, 15):
        assert ((data.region == 2) & (data.weights[:, joint] > 0.9)).sum() >= 2


# --- the skeleton ---------------------------------------------------------------------------------------------------


def joints_by_skeleton(skeleton, rotations, betas):
    """Forward kinematics by the book: 16 joints and 5 tips."""
    joints = skeleton.joints_template + skeleton.joints_shapedirs @ betas
    tips = skeleton.tips_template + skeleton.tips_shapedirs @ betas
    turns, places = [rotations[0]], [joints[0]]
    for joint in range(1, 16):
        parent = skeleton.parents[joint]
        places.append(places[parent] + turns[parent] @ (joints[joint] - joints[parent]))
        turns.append(turns[parent] @ rotations[joint])
    carried = [places[j] + turns[j] @ (tip - joints[j]) for j, tip in zip(skeleton.tip_parents, tips, strict=True)]
    return np.array(places + carried)[list(MANO_TO_KEYPOINTS)]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("make", [MODEL.layer, with_everything], ids=["open", "mean pose and posedirs"])
def test_skeleton_moves_like_the_mesh(make, side):
    layer = make(side)
    tips = [keypoints[3] for keypoints in FINGERS.values()]
    others = [k for k in range(21) if k not in tips]
    for seed in range(5):
        pose, betas, _ = random_hand(seed)
        _, truth = layer.numpy(pose, betas, np.zeros(3))
        ours = joints_by_skeleton(layer.skeleton(), layer.rotations_from_pose(pose), betas)
        np.testing.assert_allclose(ours[others], truth[others], atol=1e-9)
        if make == MODEL.layer:
            assert np.linalg.norm(ours - truth, axis=1)[tips].max() < 0.002


@pytest.mark.parametrize("side", Side)
def test_rest_joints_are_linear_in_the_shape(side):
    layer = MODEL.layer(side)
    betas = np.linspace(-2, 2, 10)
    _, joints = layer.numpy(IDENTITY, betas, np.zeros(3))
    np.testing.assert_allclose(layer.rest_joints(betas), joints, atol=1e-7)
    np.testing.assert_allclose(layer.rest_joints(np.zeros(10)), layer.joint_template)


# --- anatomy --------------------------------------------------------------------------------------------------------


def bent(layer, angles):
    """Keypoints in the wrist frame of the rest pose: x to the fingers, y to the thumb, z out of the back."""
    pose = IDENTITY.copy()
    pose[1:] = layer.anatomy.rotations(angles)
    _, joints = layer.numpy(layer.pose_from_rotations(pose), np.zeros(10), np.zeros(3))
    frame = wrist_rotation(layer.joint_template, layer.side)
    local = (joints - joints[0]) @ frame
    return local * (1, 1 if layer.side is Side.RIGHT else -1, 1)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("finger", FINGER_ROWS)
@pytest.mark.parametrize("part", range(3))
def test_positive_flexion_curls_towards_the_palm(side, finger, part):
    layer = MODEL.layer(side)
    tip = FINGERS[finger][3]
    rest = bent(layer, np.zeros((15, 3)))[tip]
    angles = np.zeros((15, 3))
    angles[FINGER_ROWS[finger] + part, 0] = 0.3
    moved = bent(layer, angles)[tip] - rest
    if finger == "thumb":  # crosses the palm towards the little finger
        assert moved[1] < -0.004
    else:
        assert moved[2] < -0.004 and abs(moved[1]) < abs(moved[2])


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("finger", FINGER_ROWS)
def test_positive_abduction_goes_to_the_thumbs_side_and_lifts_the_thumb_off_the_palm(side, finger):
    layer = MODEL.layer(side)
    tip = FINGERS[finger][3]
    angles = np.zeros((15, 3))
    angles[FINGER_ROWS[finger], 1] = 0.2
    moved = bent(layer, angles)[tip] - bent(layer, np.zeros((15, 3)))[tip]
    assert moved[2] < -0.008 if finger == "thumb" else moved[1] > 0.008


@pytest.mark.parametrize("side", Side)
def test_zero_anatomical_angles_make_a_flat_hand(side):
    layer = MODEL.layer(side)
    joints = bent(layer, -layer.anatomy.rest)
    for finger in ("index", "middle", "ring", "pinky"):
        base, *_, tip = FINGERS[finger]
        bones = np.diff(joints[list(FINGERS[finger])], axis=0)
        bones /= np.linalg.norm(bones, axis=1, keepdims=True)
        assert np.degrees(np.arccos(np.clip(bones[:-1] @ bones[1:].T, -1, 1))).max() < 12  # straight
        assert abs(joints[tip, 2] - joints[base, 2]) < 0.02  # as flat as a hand on a table
        assert abs(joints[tip, 1] - joints[base, 1]) < 0.02  # fingers parallel


@pytest.mark.parametrize("side", Side)
def test_the_thumb_can_meet_the_index_finger(side):
    layer = MODEL.layer(side)
    angles = np.zeros((15, 3))
    angles[0:3, 0] = 0.75, 0.75, 0.35
    angles[12] = 0.15, 0.35, 0
    angles[13, 0], angles[14, 0] = 0.25, 0.45
    np.testing.assert_array_equal(layer.anatomy.clamped(angles), angles)
    joints = bent(layer, angles)
    assert np.linalg.norm(joints[4] - joints[8]) < 0.025


@pytest.mark.parametrize("side", Side)
def test_angles_and_rotations_are_inverse(side):
    anatomy = MODEL.layer(side).anatomy
    low, high = anatomy.limits[..., 0], anatomy.limits[..., 1]
    angles = low + np.random.default_rng(4).random((20, 15, 3)) * (high - low)
    np.testing.assert_allclose(anatomy.angles(anatomy.rotations(angles)), angles, atol=1e-9)


@pytest.mark.parametrize("abduction", [None, np.pi / 2, -np.pi / 2, np.pi / 2 - 1e-7])
def test_angles_make_any_rotation_also_where_flexion_and_twist_turn_about_one_axis(abduction):
    anatomy, angles = MODEL.layer(Side.RIGHT).anatomy, np.random.default_rng(5).uniform(-3, 3, (20, 15, 3))
    if abduction is not None:
        angles[..., 1] = abduction
    turns = anatomy.rotations(angles)
    np.testing.assert_allclose(anatomy.rotations(anatomy.angles(turns)), turns, atol=1e-12)
    coarse = anatomy.angles(turns.astype(np.float32))  # as networks give them
    np.testing.assert_allclose(anatomy.rotations(coarse), turns, atol=1e-6)


@pytest.mark.parametrize("side", Side)
def test_axes_are_perpendicular_and_limits_contain_the_rest_pose(side):
    anatomy = MODEL.layer(side).anatomy
    frames = np.stack([anatomy.flexion, anatomy.abduction, anatomy.twist], axis=1)
    np.testing.assert_allclose(frames @ frames.transpose(0, 2, 1), np.tile(np.eye(3), (15, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(frames), 1)
    assert (anatomy.limits[..., 0] <= 0).all() and (anatomy.limits[..., 1] >= 0).all()
    flexion = anatomy.limits[:, 0, :] + anatomy.rest[:, :1]
    assert (np.degrees(flexion[:, 1]) >= 44).all() and (np.degrees(flexion[:, 0]) >= -46).all()
    np.testing.assert_allclose(anatomy.clamped(np.full((15, 3), 9.0)), anatomy.limits[..., 1])


def test_axes_of_the_left_hand_mirror_those_of_the_right():
    right, left = MODEL.right.anatomy, MODEL.left.anatomy
    for name in ("flexion", "abduction", "twist"):  # rotation axes: mirrored and reversed
        np.testing.assert_allclose(getattr(left, name), -getattr(right, name) @ MIRROR, atol=1e-9)
    np.testing.assert_allclose(left.limits, right.limits, atol=1e-9)
    np.testing.assert_allclose(left.rest, right.rest, atol=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_axes_turn_with_the_rest_pose_and_do_not_depend_on_units(vector, scale):
    skeleton, turn = MODEL.right.skeleton(), exp_so3(np.array(vector))
    anatomy = hand_anatomy(
        scale * skeleton.joints_template @ turn.T, scale * skeleton.tips_template @ turn.T, Side.RIGHT
    )
    np.testing.assert_allclose(anatomy.flexion, MODEL.right.anatomy.flexion @ turn.T, atol=1e-9)
    np.testing.assert_allclose(anatomy.limits, MODEL.right.anatomy.limits, atol=1e-9)


def test_the_thumbs_axes_agree_with_its_nail():
    data, anatomy = MODEL.right.data, MODEL.right.anatomy
    corners = data.template[data.faces]
    nails = data.region[data.faces].min(axis=1) == 2
    thumb = data.weights[data.faces][..., 15].min(axis=1) > 0.9
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[nails & thumb].sum(axis=0)
    back = np.cross(anatomy.twist[14], anatomy.flexion[14])  # bone × flexion: out of the back
    assert np.degrees(np.arccos(back @ normals / np.linalg.norm(normals))) < 35


def test_coinciding_joints_are_refused():
    with pytest.raises(ModelFileError, match="coincide"):
        hand_anatomy(np.zeros((16, 3)), np.zeros((5, 3)), Side.RIGHT)


def test_no_hands_give_no_meshes():
    mesh = MODEL.right.forward(torch.zeros(0, 16, 3, 3), torch.zeros(0, 10), torch.zeros(0, 3))
    assert mesh.vertices.shape == (0, 778, 3) and mesh.joints.shape == (0, 21, 3)
