"""Loading hand models: the user's MANO files in the formats they come in, and files that are wrong or malicious.

The MANO-like files here hold made-up numbers.
"""

import collections
import copy
import functools
import gzip
import io
import os
import pickle
import pickletools
import struct
import sys
import types
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from bounded import run_bounded
from smplx.utils import Struct

from wildhands_ros.errors import ModelFileError
from wildhands_ros.hand_model import load_hand_model, pickles
from wildhands_ros.hand_model.data import PARENTS
from wildhands_ros.hands import Side

COUNT = 778


def made_up_hand(side="RIGHT"):
    return copy.copy(_made_up_hand(side))


@functools.cache
def _made_up_hand(side):
    """Arrays as in a MANO file, keys and shapes alike: noise round a plain skeleton."""
    rng = np.random.default_rng(1)
    joints = np.zeros((16, 3))
    joints[0] = 0.09, 0, 0
    for finger, z in enumerate((0.025, 0.0, -0.04, -0.02)):
        joints[1 + 3 * finger : 4 + 3 * finger] = [[0, 0, z], [-0.03, -0.002, z], [-0.05, -0.005, z]]
    joints[13:16] = [0.07, -0.01, 0.03], [0.05, -0.02, 0.05], [0.03, -0.03, 0.06]
    owner = np.arange(COUNT) % 16
    vertices = joints[owner] + 0.006 * rng.normal(size=(COUNT, 3))
    regressor = (owner == np.arange(16)[:, None]) / np.bincount(owner)[:, None]
    weights = np.eye(16)[owner] * 0.8 + 0.2 / 16
    if side == "LEFT":
        vertices[:, 0] *= -1
    return {
        "v_template": vertices,
        "f": rng.integers(0, COUNT, (1538, 3)).astype(np.uint32),
        "shapedirs": 0.003 * rng.normal(size=(COUNT, 3, 10)),
        "posedirs": 0.001 * rng.normal(size=(COUNT, 3, 135)),
        "J_regressor": sp.csc_matrix(regressor),
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(16)], np.uint32),
        "hands_components": np.eye(45),
        "hands_mean": 0.1 * rng.normal(size=45),
        "hands_coeffs": rng.normal(size=(4, 45)),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def _pickled(arrays):
    return pickle.dumps(arrays, protocol=2)


def write_pair(folder, dump=_pickled, change=None, ending="pkl"):
    """Writes both hands; `change` alters the arrays of the right one."""
    right = made_up_hand()
    if change is not None:
        change(right)
    (folder / f"MANO_RIGHT.{ending}").write_bytes(dump(right))
    (folder / f"MANO_LEFT.{ending}").write_bytes(_left_hand(dump))
    return folder


@functools.lru_cache(maxsize=2)
def _left_hand(dump):
    return dump(made_up_hand("LEFT"))


def as_npz(arrays):
    arrays = {k: v.toarray() if sp.issparse(v) else v for k, v in arrays.items()}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def assert_holds_made_up_hand(model, side=Side.RIGHT, shapes=None):
    truth, data = made_up_hand(side.name), model.layer(side).data
    np.testing.assert_array_equal(data.template, truth["v_template"])
    np.testing.assert_array_equal(data.faces, truth["f"])
    np.testing.assert_allclose(data.shapedirs, truth["shapedirs"] if shapes is None else shapes)
    np.testing.assert_array_equal(data.posedirs, truth["posedirs"])
    np.testing.assert_allclose(data.joint_regressor, truth["J_regressor"].toarray())
    np.testing.assert_array_equal(data.hands_mean, truth["hands_mean"])
    assert data.tip_vertices.tolist() == [744, 320, 443, 554, 671]


# --- files that work ------------------------------------------------------------------------------------------------


def test_the_open_hand_comes_with_the_package():
    model = load_hand_model()
    assert model.name == "open" and len(model.sha256) == 64
    assert model.layer(Side.LEFT) is model.left and model.left.side is Side.LEFT
    assert model.right.vertex_count == 778


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(tmp_path, protocol):
    model = load_hand_model(write_pair(tmp_path, lambda arrays: pickle.dumps(arrays, protocol=protocol)))
    assert model.name == "mano"
    for side in Side:
        assert_holds_made_up_hand(model, side)


def test_arrays_with_permuted_axes(tmp_path):
    """As numpy 2.3 and later write them in protocol 5, spelt out for older ones."""

    class Permuted:
        def __init__(self, array, axes):
            self.array, self.axes = array, axes

        def __reduce__(self):
            rebuild, _ = np.ones((2, 2)).__reduce_ex__(5)  # its private function, wherever this numpy has it
            raw = self.array.transpose(self.axes)  # what lies in memory
            order = tuple(int(axis) for axis in np.argsort(self.axes))
            return rebuild, (raw.tobytes(), raw.dtype, raw.shape, "K", order)

    def change(arrays):
        arrays["shapedirs"] = Permuted(arrays["shapedirs"], (2, 0, 1))

    dump = functools.partial(pickle.dumps, protocol=5)
    assert_holds_made_up_hand(load_hand_model(write_pair(tmp_path, dump, change)))


@pytest.mark.parametrize("kind", [np.matrix, sp.lil_matrix, sp.dok_matrix, sp.bsr_matrix, sp.dia_array])
def test_kinds_of_arrays_that_are_not_read_are_named_without_alarm(tmp_path, kind):
    def change(arrays):
        arrays["J_regressor"] = kind(arrays["J_regressor"].toarray())

    with pytest.raises(ModelFileError, match=f"{kind.__name__}.*save the plain array") as refused:
        load_hand_model(write_pair(tmp_path, change=change))
    assert "run code" not in str(refused.value)


@pytest.mark.parametrize("kind", ["csr_matrix", "coo_matrix", "csc_array", "csr_array", "coo_array"])
def test_sparse_regressors_of_every_kind(tmp_path, kind):
    def change(arrays):
        arrays["J_regressor"] = getattr(sp, kind)(arrays["J_regressor"])

    assert_holds_made_up_hand(load_hand_model(write_pair(tmp_path, change=change)))


def test_arrays_in_fortran_order_and_big_endian(tmp_path):
    def change(arrays):
        arrays["posedirs"] = np.asfortranarray(arrays["posedirs"])
        arrays["v_template"] = arrays["v_template"].astype(">f8")

    assert_holds_made_up_hand(load_hand_model(write_pair(tmp_path, change=change)))


def test_npz_files(tmp_path):
    assert_holds_made_up_hand(load_hand_model(write_pair(tmp_path, as_npz, ending="npz")))


@pytest.mark.parametrize("inside", ["", "models", "mano", "mano_v1_2/models"])
def test_folders_as_the_archive_and_its_users_make_them(tmp_path, inside):
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    write_pair(tmp_path / inside)
    assert load_hand_model(str(tmp_path)).name == "mano"


@pytest.mark.parametrize("side", ["RIGHT", "LEFT"])
def test_either_file_finds_the_other(tmp_path, side):
    model = load_hand_model(write_pair(tmp_path) / f"MANO_{side}.pkl")
    assert_holds_made_up_hand(model, Side.RIGHT)
    assert_holds_made_up_hand(model, Side.LEFT)


def test_the_checksum_tells_files_apart(tmp_path):
    first = load_hand_model(write_pair(tmp_path)).sha256
    write_pair(tmp_path, change=lambda arrays: arrays.update(v_template=arrays["v_template"] + 1e-6))
    assert load_hand_model(tmp_path).sha256 != first


class _FakeCh:
    """Pickles as chumpy's array does: its attributes."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def test_chumpy_expressions(tmp_path, monkeypatch):
    """The official files' shapedirs: Select(a=Ch(x), idxs, preferred_shape), the first ten of twenty directions."""
    ch = type("Ch", (_FakeCh,), {"__module__": "chumpy.ch"})
    select = type("Select", (_FakeCh,), {"__module__": "chumpy.reordering"})
    other = type("MatVecMult", (_FakeCh,), {"__module__": "chumpy.ch"})
    modules = {"chumpy": {}, "chumpy.ch": {"Ch": ch, "MatVecMult": other}, "chumpy.reordering": {"Select": select}}
    twenty = np.random.default_rng(2).normal(size=(COUNT, 3, 20)) * 0.003

    def change(arrays):
        whole = ch(x=twenty, _dirty_vars=set(), _itr=None)
        chosen = np.arange(twenty.size).reshape(twenty.shape)[:, :, :10].ravel()
        arrays["shapedirs"] = select(a=whole, idxs=chosen, preferred_shape=(COUNT, 3, 10), dr_lookup={})
        arrays["v_template"] = ch(x=arrays["v_template"])
        arrays["J"] = other(left=3)  # not read, so it need not be understood

    with monkeypatch.context() as patch:
        for name, members in modules.items():
            module = types.ModuleType(name)
            vars(module).update(members)
            patch.setitem(sys.modules, name, module)
        write_pair(tmp_path, change=change)
    assert "chumpy" not in sys.modules
    assert_holds_made_up_hand(load_hand_model(tmp_path), shapes=twenty[:, :, :10])


def python2_pickle(value):
    """A protocol 2 pickle as Python 2 wrote it: byte strings, old module names, memo after every object."""
    out, memo = io.BytesIO(), iter(range(10_000))
    write = out.write

    def put():
        write(b"q" + bytes([n]) if (n := next(memo)) < 256 else b"r" + struct.pack("<I", n))

    def text(s):
        raw = s if isinstance(s, bytes) else s.encode()
        write((b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw)
        put()

    def name(module, attribute):
        write(f"c{module}\n{attribute}\n".encode())
        put()

    def number(n):
        write(b"J" + struct.pack("<i", n))

    def array(a):
        name("numpy.core.multiarray", "_reconstruct")
        name("numpy", "ndarray")
        write(b"K\x00\x85")
        text("b")
        write(b"\x87R")
        put()
        write(b"(K\x01(")
        for n in a.shape:
            number(n)
        write(b"t")
        name("numpy", "dtype")
        text(a.dtype.str[1:])
        write(b"K\x00K\x01\x87R(K\x03")
        text("<")
        write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
        text(a.tobytes())
        write(b"tb")

    def any_value(v):
        if isinstance(v, np.ndarray):
            array(v)
        elif isinstance(v, str):
            text(v)
        elif isinstance(v, int):
            number(v)
        elif isinstance(v, tuple):
            write(b"(")
            for item in v:
                any_value(item)
            write(b"t")
        elif isinstance(v, dict):
            write(b"}")
            put()
            write(b"(")
            for key, item in v.items():
                text(key)
                any_value(item)
            write(b"u")
        else:  # (module, class, state)
            name(v.module, v.name)
            write(b")\x81")
            put()
            any_value(v.state)
            write(b"b")

    write(b"\x80\x02")
    any_value(value)
    write(b".")
    return out.getvalue()


def old_pickle(arrays):
    """MANO's arrays as its files have them: old scipy and chumpy, Python 2."""
    matrix = arrays["J_regressor"]
    parts = {"_shape": matrix.shape, "indptr": matrix.indptr, "indices": matrix.indices, "data": matrix.data}
    arrays["J_regressor"] = Struct(module="scipy.sparse.csc", name="csc_matrix", state={**parts, "maxprint": 50})
    arrays["shapedirs"] = Struct(module="chumpy.ch", name="Ch", state={"x": arrays["shapedirs"]})
    return python2_pickle(arrays)


def test_python_2_pickles_with_old_scipy_and_chumpy(tmp_path):
    model = load_hand_model(write_pair(tmp_path, old_pickle))
    assert_holds_made_up_hand(model)
    assert_holds_made_up_hand(model, Side.LEFT)


def test_texts_of_protocol_0_hold_bytes(tmp_path):
    """As Python 2's pickle.dump wrote them unless it was told otherwise: escaped only where its repr escapes."""

    def dump(arrays):
        content, written = old_pickle(arrays), b""
        steps = list(pickletools.genops(content))
        for (opcode, argument, start), end in zip(steps, [*(s[2] for s in steps[1:]), len(content)], strict=True):
            if opcode.name in ("SHORT_BINSTRING", "BINSTRING"):
                text = "".join(c if ord(c) >= 0x80 or c == "'" else repr(c)[1:-1] for c in argument)
                written += b"S'" + text.replace("'", r"\x27").encode("latin-1") + b"'\n"
            else:
                written += content[start:end]
        return written

    assert_holds_made_up_hand(load_hand_model(write_pair(tmp_path, dump)))


# --- files that are wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, change, problem",
    [
        ("v_template", lambda a: a[:, :2], "shape"),
        ("v_template", lambda a: a * np.nan, "NaN"),
        ("v_template", lambda a: a * 1000, "metres"),
        ("v_template", lambda a: np.zeros((30_000, 3)), "rows"),
        ("v_template", lambda a: np.full(a.shape, "x"), "number|expected"),
        ("f", lambda a: a + COUNT, "indices"),
        ("f", lambda a: a - 0.5, "indices"),
        ("shapedirs", lambda a: a[:, :, :9], "shape directions"),
        ("posedirs", lambda a: a[:, :, :134], "shape"),
        ("J_regressor", lambda a: a.toarray()[:15], "shape"),
        ("J_regressor", lambda a: a.toarray() * 2, "sum"),
        ("weights", lambda a: a * 0, "sum"),
        ("kintree_table", lambda a: a[:, ::-1], "joint tree"),
        ("kintree_table", lambda a: a.tolist(), "no array|list"),
        ("hands_mean", lambda a: a[:44], "shape"),
        ("hands_mean", lambda a: a * np.inf, "NaN or infinity"),
        ("hands_components", lambda a: a[:6], "shape"),
        ("posedirs", lambda a: [object()], "posedirs"),
        ("posedirs", lambda a: np.array([{}], dtype=object), "posedirs"),
    ],
)
@pytest.mark.parametrize("dump", [_pickled, as_npz], ids=["pickle", "npz"])
def test_wrong_arrays_are_named(tmp_path, key, change, problem, dump):
    def spoil(arrays):
        arrays[key] = change(arrays[key])

    ending = "npz" if dump is as_npz else "pkl"
    try:
        write_pair(tmp_path, dump, spoil, ending)
    except (pickle.PicklingError, AttributeError, TypeError):
        pytest.fail("the test itself is wrong")
    if dump is as_npz and key == "kintree_table" and problem.startswith("no array"):
        assert load_hand_model(tmp_path).name == "mano"  # npz has turned the list into an array
        return
    with pytest.raises(ModelFileError) as caught:
        load_hand_model(tmp_path)
    message = str(caught.value)
    assert f"MANO_RIGHT.{ending}" in message and "mano.is.tue.mpg.de" in message
    if "object" not in message:  # numpy refuses objects in npz files before we see the key
        assert any(word in message for word in problem.split("|")) and key in message


@pytest.mark.parametrize("key", ["v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "hands_mean"])
def test_missing_arrays_are_named(tmp_path, key):
    with pytest.raises(ModelFileError, match=f"MANO_RIGHT.pkl: '{key}' is missing"):
        load_hand_model(write_pair(tmp_path, change=lambda arrays: arrays.pop(key)))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ModelFileError, match="no such file or folder.*mano.is.tue.mpg.de"):
        load_hand_model(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match="holds neither MANO_RIGHT"):
        load_hand_model(tmp_path)
    write_pair(tmp_path)
    (tmp_path / "MANO_LEFT.pkl").unlink()
    with pytest.raises(ModelFileError, match="MANO_LEFT.pkl is missing"):
        load_hand_model(tmp_path)
    (tmp_path / "hand.pkl").write_bytes(b"")
    with pytest.raises(ModelFileError, match="RIGHT or LEFT"):
        load_hand_model(tmp_path / "hand.pkl")


@pytest.mark.parametrize("path", ["x" * 300, "~nobody_of_this_name/mano"])
def test_paths_that_no_file_can_have(path):
    with pytest.raises(ModelFileError, match="cannot look for a hand model at"):
        load_hand_model(path)


def test_folders_that_may_not_be_read(monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelFileError, match="/secret/mano.*Permission denied"):
        load_hand_model("/secret/mano")


def test_hands_of_different_models_are_refused(tmp_path):
    write_pair(tmp_path, as_npz, lambda arrays: arrays.update(name=np.array("other")), "npz")
    with pytest.raises(ModelFileError, match="different hand models"):
        load_hand_model(tmp_path)


def test_huge_files_are_refused_unread(tmp_path):
    write_pair(tmp_path)
    with open(tmp_path / "MANO_RIGHT.pkl", "r+b") as file:
        file.truncate(10 << 30)  # sparse: takes no room
    with pytest.raises(ModelFileError, match="10240 MiB"):
        load_hand_model(tmp_path)


@pytest.mark.parametrize("ending, dump", [("pkl", _pickled), ("npz", as_npz)])
@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files(tmp_path, ending, dump, fraction):
    file = write_pair(tmp_path, dump, ending=ending) / f"MANO_RIGHT.{ending}"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(ModelFileError, match=f"MANO_RIGHT.{ending}"):
        load_hand_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: get it again"),
        (b"<!DOCTYPE html><title>Login</title>", "is a web page, perhaps of a download that asks for a login"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (gzip.compress(b"hand"), "is compressed by gzip: unpack it"),
        (b"hand", "is not a pickle, or a damaged one"),
    ],
)
def test_what_lies_in_place_of_a_hand_is_named(content, says, tmp_path):
    """MANO's page asks for a login, and what a script gets there instead of the file is a page."""
    (write_pair(tmp_path, pickle.dumps) / "MANO_LEFT.pkl").write_bytes(content)
    with pytest.raises(ModelFileError, match=f"MANO_LEFT.pkl .*{says}.*mano.is.tue.mpg.de"):
        load_hand_model(tmp_path)


def test_damaged_files_never_raise_anything_else(tmp_path):
    write_pair(tmp_path, lambda arrays: pickle.dumps({k: v for k, v in arrays.items() if k != "posedirs"}))
    file = tmp_path / "MANO_RIGHT.pkl"
    content, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in (*rng.integers(0, len(content), 3), *rng.integers(0, 400, 3)):
            damaged[place] = rng.integers(0, 256)
        file.write_bytes(damaged)
        with pytest.raises(ModelFileError):  # posedirs is missing in any case
            load_hand_model(file)


# --- files that want something --------------------------------------------------------------------------------------


def assert_refused(folder, content, match="MANO_RIGHT.pkl"):
    (folder / "MANO_LEFT.pkl").write_bytes(_left_hand(_pickled))
    (folder / "MANO_RIGHT.pkl").write_bytes(content)
    with pytest.raises(ModelFileError, match=match):
        load_hand_model(folder)


class _Calls:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, exec, getattr, __import__, print])
def test_calls_are_refused_and_do_not_happen(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')"
    args = {os.system: (f"touch {trace}",), os.mkdir: (str(trace),), eval: (code,), exec: (code,)}
    arrays = {**made_up_hand(), "J": _Calls(function, *args.get(function, ("os", "system")))}
    if protocol == 0:
        arrays = {"J": arrays["J"]}
    assert_refused(tmp_path, pickle.dumps(arrays, protocol=protocol), "asks for|instruction")
    assert not trace.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("numpy", "load"), ("numpy", "fromfile"), ("numpy.core.multiarray", "fromfile"), ("numpy.testing", "runstring"),
        ("numpy._core._multiarray_umath", "array"), ("numpy", "ndarray.tofile"), ("scipy.sparse", "load_npz"),
        ("_codecs", "decode"), ("codecs", "open"), ("builtins", "getattr"), ("__builtin__", "apply"),
        ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("importlib", "import_module"),
        ("chumpy.ch", "os.system"), ("copyreg", "add_extension"), ("wildhands_ros.hand_model", "load_hand_model"),
    ],
)  # fmt: skip
def test_names_off_the_list_are_refused(tmp_path, module, name):
    for content in (
        f"c{module}\n{name}\n.".encode(),
        b"\x80\x04\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + name.encode()
        + b"\x93.",
    ):
        assert_refused(tmp_path, content, "asks for")


def test_chumpy_is_never_imported(tmp_path, monkeypatch):
    trap = tmp_path / "chumpy"
    trap.mkdir()
    (trap / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert_refused(tmp_path, b"cchumpy.ch\nCh\n)\x81.")


def doubled_tuples(levels):
    """Instructions that make a tuple of the empty one twice, then of that twice, and so on."""
    return b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(levels))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04" + b"(" * 200_000 + b"t" * 200_000 + b".",  # nesting
        b"\x80\x04" + b"N" + b"\x85" * 200_000 + b".",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo slot that makes the reader allocate 32 GiB
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a bytearray of 1 TiB
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",  # bytes that are not there
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",  # a frame that is not there
        b"\x80\x02Pidentity\n.", b"\x80\x02NQ.",  # persistent identities
        b"\x80\x02\x82\x01.",  # the extension registry
        b"(inumpy\nndarray\n.",  # old-style instances
        b"(cnumpy\nndarray\no.",
        b"cnumpy\nndarray\n}X\x04\x00\x00\x00argsK\x01sb.",  # altering a class
        b"cnumpy\nndarray\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
        b"ccopy_reg\n_reconstructor\nN}X\x08\x00\x00\x00__call__K\x01s\x86b.",
        b"ccopy_reg\n_reconstructor\n(ccollections\nOrderedDict\nc__builtin__\nobject\nNtR.",
        b"cnumpy\nndarray\n)\x81N}X\x05\x00\x00\x00stateK\x01s\x86b.",
        b"K\x01.", b".", b"", b"garbage", b"PK\x03\x04garbage", b"\x80\xff.",
        b"\x80\x02}" + doubled_tuples(60) + b"K\x01s.",  # a key whose hash takes 2^60 steps
        b"\x80\x04\x8f(" + doubled_tuples(60) + b"\x90.", b"\x80\x04(" + doubled_tuples(60) + b"\x91.",
        b"ccollections\nOrderedDict\n(" + doubled_tuples(60) + b"K\x01\x86\x85\x85R.",
    ],
    ids=range(26),
)  # fmt: skip
def test_hostile_bytes_are_refused(tmp_path, content):
    assert_refused(tmp_path, content)


def array_pickle(shape=(3,), dtype="f8", data=b"\0" * 24):
    """A pickled array under v_template whose parts need not fit."""
    return python2_pickle({"v_template": np.zeros(3)}).replace(
        b"(" + b"".join(b"J" + struct.pack("<i", n) for n in (3,)) + b"t",
        b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape) + b"t",
    ).replace(b"U\x02f8", b"U" + bytes([len(dtype)]) + dtype.encode()).replace(
        b"U\x18" + b"\0" * 24, b"U" + bytes([len(data)]) + data
    )  # fmt: skip


@pytest.mark.parametrize(
    "change, match",
    [
        ({"shape": (1 << 40,)}, "shape"),
        ({"shape": (1 << 25, 1 << 25)}, "shape"),
        ({"shape": (-3,)}, "shape"),
        ({"shape": (4,)}, "does not fit"),
        ({"dtype": "O8"}, "numbers"),
        ({"dtype": "V8"}, "numbers"),
        ({"dtype": "f8,O"}, "numbers"),
        ({"dtype": "f9"}, "v_template"),
        ({"data": b"\0" * 23}, "does not fit"),
    ],
)
def test_arrays_whose_parts_do_not_fit(tmp_path, change, match):
    assert_refused(tmp_path, array_pickle(), "'v_template' has shape|rows|is missing|expected")  # as such readable
    assert_refused(tmp_path, array_pickle(**change), match)


def test_sparse_matrices_whose_parts_do_not_fit(tmp_path):
    for change in (
        {"_shape": (1 << 30, 1 << 30)}, {"_shape": (16, 5)}, {"indices": np.full(COUNT, 99)},
        {"indices": np.full(COUNT, -1)}, {"data": np.zeros(3)}, {"indptr": np.zeros(3, int)},
    ):  # fmt: skip

        def dump(arrays, change=change):
            m = arrays["J_regressor"]
            state = {"_shape": m.shape, "indptr": m.indptr, "indices": m.indices, "data": m.data, **change}
            return python2_pickle(
                {**arrays, "J_regressor": Struct(module="scipy.sparse.csc", name="csc_matrix", state=state)}
            )

        with pytest.raises(ModelFileError, match="J_regressor"):
            load_hand_model(write_pair(tmp_path, dump))


@pytest.mark.parametrize("kind", ["csc", "csr"])
def test_sparse_matrices_whose_lengths_wrap_write_nowhere(tmp_path, kind):
    """Four lengths of 2^62 add up to 0 in 64 bits. In a process of its own, which writing out of bounds would end."""
    state = {
        "_shape": (4, 4), "indptr": np.array([0, 2**62, -(2**63), -(2**62), 0], np.int64),
        "indices": np.zeros(0, np.int64), "data": np.zeros(0),
    }  # fmt: skip
    record = Struct(module=f"scipy.sparse.{kind}", name=f"{kind}_matrix", state=state)
    (tmp_path / "hand.pkl").write_bytes(python2_pickle({"J_regressor": record}))
    said = run_bounded(
        """
import sys
from wildhands_ros.hand_model.pickles import RefusedPickle, read_pickle
try:
    read_pickle(open(sys.argv[1], "rb").read(), ["J_regressor"])
except RefusedPickle as error:
    print(error)
""",
        str(tmp_path / "hand.pkl"),
    )
    assert "does not fit its shape" in said


def test_chumpy_that_contains_itself(tmp_path):
    # Ch whose x is itself: memo 0 is the dictionary, 1 "v_template", 2 the class, 3 the instance
    content = b"\x80\x02}q\x00U\x0av_templateq\x01cchumpy.ch\nCh\nq\x02)\x81q\x03}U\x01xh\x03sbs."
    assert_refused(tmp_path, content, "nested too deeply")


# --- small files that would take much -------------------------------------------------------------------------------


def put(n):
    return b"r" + struct.pack("<I", n)


def get(n):
    return b"j" + struct.pack("<I", n)


def keyed(*values):
    """A dictionary of MANO's keys, in its files' order, with these values."""
    return (
        b"}("
        + b"".join(b"U" + bytes([len(k)]) + k.encode() + v for k, v in zip(made_up_hand(), values, strict=False))
        + b"u."
    )


def array_of(array):
    """The instructions for an array, without memo."""
    kind, raw = array.dtype.str[1:].encode(), array.tobytes()
    size = b"J" + struct.pack("<i", array.size)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + size
        + b"\x85cnumpy\ndtype\nU" + bytes([len(kind)]) + kind + b"K\x00K\x01\x87R\x89T"
        + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip


def selected(array, places):
    return b"cchumpy.reordering\nSelect\n)\x81}(U\x01a" + array + b"U\x04idxs" + places + b"ub"


def long_text(size):
    return b"T" + struct.pack("<i", size) + b"x" * size


def tuple_of(count, value=b"N"):
    return b"(" + value * count + b"t"


def nested_lists(levels):
    """Each holds the one before twice: written out, 2^levels."""
    return b"]" + b"".join(put(n) + b"0](" + get(n) * 2 + b"e" for n in range(levels))


def of_shape(shape):
    return b"\x80\x02" + keyed(array_of(np.zeros(1)).replace(b"J\x01\x00\x00\x00\x85", shape))


@pytest.mark.parametrize(
    "content, reason",
    [
        (of_shape(nested_lists(40)), "shape"),
        (of_shape(tuple_of(100_000, b"K\x01")), "tuple of 100000 entries for its shape"),
        (b"\x80\x02}" + put(0) + b"0ccollections\nOrderedDict\n" + get(0) + b"\x85R.", "OrderedDict of Python 2"),
        (b"\x80\x02ccollections\nOrderedDict\n]](U\x01aNea\x85R.", "OrderedDict of Python 2"),
        (b"\x80\x02cnumpy\ndtype\n" + tuple_of(1000) + b"R.", "1000 arguments"),
        (b"\x80\x02ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nNNNtR.", "no array"),
        (b"\x80\x02" + tuple_of(2000) + put(0) + b"0}" + get(0) + b"Ns.", "keys"),
        (b"\x80\x02" + tuple_of(900) + put(0) + b"0}(" + (get(0) + b"N") * 20 + b"u.", "keys"),
        (b"\x80\x02" + tuple_of(900) + put(0) + b"0(" + (get(0) + b"N") * 20 + b"d.", "keys"),
        (b"\x80\x04" + tuple_of(900) + put(0) + b"0\x8f(" + get(0) * 20 + b"\x90.", "keys"),
        (b"\x80\x04" + tuple_of(900) + put(0) + b"0(" + get(0) * 20 + b"\x91.", "keys"),
        (b"\x80\x02}" + long_text(2000) + b"Ns.", "keys"),
        (b"\x80\x02}" + long_text(2000) + b"\x85Ns.", "keys"),
        (b"\x80\x02}\x8b" + struct.pack("<i", 2000) + b"\x01" * 2000 + b"Ns.", "keys"),
        (b"\x80\x02}(" + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(20_000)) + b"u.", "keys"),
        (b"\x80\x04" + b"\x8f0" * 600_000 + b"N.", "instructions"),
    ],
    ids=["shared shape", "long shape", "OrderedDict of one", "OrderedDict of pairs", "arguments", "reconstructor",
         "key", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET", "text", "text in tuple", "number", "numbers", "sets"],
)  # fmt: skip
def test_files_that_would_take_time_or_memory_without_end_are_refused(tmp_path, content, reason):
    assert_refused(tmp_path, content, reason)


def test_an_array_in_many_places_is_made_once(monkeypatch):
    """Selections of selections, each of the one before twice: 2^19 when each is made anew."""
    content = b"\x80\x02" + array_of(np.arange(3)) + put(0) + b"0"
    for n in range(18):
        content += selected(get(n), get(n)) + put(n + 1) + b"0"
    read, original = [], pickles._state

    def state(record):
        read.append(record)
        return original(record)

    monkeypatch.setattr(pickles, "_state", state)
    found = pickles.read_pickle(content + keyed(get(18), get(18)), ("v_template", "f"))
    assert found["f"].tolist() == [0, 1, 2] and found["v_template"] is found["f"]
    assert len(read) == 18


@pytest.mark.parametrize("count", [1, 3])
def test_what_arrays_become_is_counted_together(monkeypatch, count):
    monkeypatch.setattr(pickles, "_LARGEST_ARRAY", 15_000_000)
    places = b"\x80\x02" + array_of(np.zeros(400_000, np.uint8)) + put(0) + b"0"
    content = places + keyed(*[selected(array_of(np.zeros(4)), get(0))] * count)
    if count == 1:  # 400 kB of places choose 3.2 MB
        assert pickles.read_pickle(content, made_up_hand())["v_template"].shape == (400_000,)
        return
    with pytest.raises(pickles.RefusedPickle, match="unpacks to more than"):
        pickles.read_pickle(content, made_up_hand())


def test_coordinates_are_not_spread_out(tmp_path):
    """A column of row numbers and a row of column numbers would be a value for each pair."""

    def dump(arrays):
        places = np.zeros(3000, np.int32)
        state = {"_shape": (16, COUNT), "row": places[:, None], "col": places[None], "data": np.ones(3000)}
        record = Struct(module="scipy.sparse.coo", name="coo_matrix", state=state)
        return python2_pickle({**arrays, "J_regressor": record})

    with pytest.raises(ModelFileError, match="J_regressor.*different numbers"):
        load_hand_model(write_pair(tmp_path, dump))


def test_numbers_that_no_array_holds_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="hands_mean.*no array can hold"):
        load_hand_model(write_pair(tmp_path, change=lambda arrays: arrays.update(hands_mean=[1 << 70] * 45)))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_ordered_dictionaries_of_python_3_are_read(protocol):
    stored = collections.OrderedDict(b=np.arange(3.0), a=np.zeros(2))
    found = pickles.read_pickle(pickle.dumps(stored, protocol=protocol), ("a", "b"))
    assert found["a"].tolist() == [0, 0] and found["b"].tolist() == [0, 1, 2]


def npz_with(name, header, size=8):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        text = header.encode()
        archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * size)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npz_with("v_template", "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 3), }\n"),
        npz_with("v_template", "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
        npz_with("v_template", "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n"),
        npz_with("v_template", "__import__('os').system('true')\n"),
        npz_with("v_template", "{'descr': '<f8', 'fortran_order': False, 'shape': (37000000,), }\n", 37_000_000 * 8),
        npz_with("name", "{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n"),
    ],
    ids=["huge shape", "objects", "negative", "code", "bomb", "number as a name"],
)
def test_hostile_npz_files(tmp_path, content):
    (tmp_path / "MANO_LEFT.npz").write_bytes(_left_hand(as_npz))
    (tmp_path / "MANO_RIGHT.npz").write_bytes(content)
    with pytest.raises(ModelFileError, match="MANO_RIGHT.npz"):
        load_hand_model(tmp_path)


def test_layers_are_found_by_text_and_cannot_be_changed() -> None:
    model = load_hand_model("")
    assert model.name == "open" and all(model.layer(side.value).side is side for side in Side)
    with pytest.raises(ValueError, match="banana"):
        model.layer("banana")
    for array in (model.right.faces, model.right.data.template):
        with pytest.raises(ValueError, match="read-only"):
            array += 1
    pose = np.tile(np.eye(3), (16, 1, 1))
    assert not np.shares_memory(model.right.rotations_from_pose(pose), pose)


def test_swapped_files_are_warned_of(tmp_path, caplog) -> None:
    data = resources.files("wildhands_ros.hand_model") / "data"
    for name, content in (("right", "left"), ("left", "right")):
        (tmp_path / f"open_hand_{name}.npz").write_bytes((data / f"open_hand_{content}.npz").read_bytes())
    load_hand_model(tmp_path)
    assert "open_hand_left.npz seem to be swapped" in caplog.text
    caplog.clear()
    load_hand_model()
    assert not caplog.text


def test_one_hand_given_as_both_is_refused(tmp_path) -> None:
    content = (resources.files("wildhands_ros.hand_model") / "data" / "open_hand_right.npz").read_bytes()
    for side in ("right", "left"):
        (tmp_path / f"open_hand_{side}.npz").write_bytes(content)
    with pytest.raises(ModelFileError, match="hold the same hand"):
        load_hand_model(tmp_path)
