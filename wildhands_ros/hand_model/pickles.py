"""Reads arrays out of a pickle without running anything in it.

MANO's official files are Python 2 pickles that hold NumPy arrays, SciPy sparse matrices and chumpy expressions.
Unpickling calls whatever a file names, so here every name on a short list stands for an inert record that only keeps
what it was given, every other name is refused, and the records are read afterwards by the code below. NumPy, SciPy
and chumpy code is never called on behalf of the file (chumpy is not even needed).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

# What pickles of arrays need. Opcodes that fetch objects from elsewhere (persistent ids, extension registry,
# out-of-band buffers) or that instantiate old-style classes are not among them.
_OPCODES = frozenset(
    "PROTO STOP MARK POP POP_MARK DUP GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE FRAME "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES "
    "BINBYTES8 BYTEARRAY8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ".split()
)
_MEMO_OPCODES = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_LARGEST_ARRAY = 256 * 1024 * 1024  # bytes; MANO's largest is 2.5 MB
_LARGEST_TUPLE = 1000  # of tuples in tuples, counted as if written out; arrays need a dozen
_DEEPEST = 20  # nesting of chumpy expressions; MANO's is 2


class RefusedPickle(Exception):
    """The pickle asks for something that arrays do not need, or does not hold what it should."""


def read_pickle(content: bytes, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays stored under `keys` in the dictionary that a pickle holds; keys that it lacks are left out.

    Chumpy expressions and sparse matrices become plain arrays. Raises RefusedPickle with the reason.
    """
    stored = _load(content)
    if not isinstance(stored, dict):
        raise RefusedPickle(f"holds a {type(stored).__name__}, expected a dictionary of arrays")
    arrays = {}
    for key in keys:
        if key in stored:
            try:
                arrays[key] = _array(stored[key])
            except RefusedPickle as refused:
                raise RefusedPickle(f"holds no array under '{key}': {refused}") from refused
            except Exception as error:
                raise RefusedPickle(f"is damaged at '{key}' ({type(error).__name__}: {error})") from error
    return arrays


def _load(content: bytes) -> object:
    """What the pickle holds, records in place of everything that is not built in."""
    _check_opcodes(content)
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except RefusedPickle:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise RefusedPickle(f"is a damaged pickle ({type(error).__name__}: {error})") from error


Plain = dict[str, "Plain"] | list["Plain"] | np.ndarray | str | bytes | float | int | bool | None
"""What `read_plain_pickle` gives."""


def read_plain_pickle(content: bytes) -> Plain:
    """What a pickle of nested dictionaries, lists, texts, numbers and arrays holds; tuples become lists.

    Raises RefusedPickle with the reason, also for dictionaries whose keys are not texts.
    """
    stored = _load(content)
    try:
        return _plain(stored, {}, 0)
    except RefusedPickle:
        raise
    except Exception as error:  # records may have been given anything
        raise RefusedPickle(f"is a damaged pickle ({type(error).__name__}: {error})") from error


def _check_opcodes(content: bytes) -> None:
    """Looks through the whole pickle before any of it is interpreted.

    This also makes sure that all announced data is there, before the unpickler takes memory for it.
    """
    count = 0
    tuples = _Tuples()
    try:
        for name, argument in _instructions(content):
            count += 1
            if name not in _OPCODES:
                raise RefusedPickle(f"uses the pickle instruction {name}, which no file of arrays needs")
            if name in _MEMO_OPCODES and int(argument or 0) > count:  # would make the reader allocate that much
                raise RefusedPickle("is a damaged pickle (its memo has holes)")
            tuples.follow(name, argument)
    except RefusedPickle:
        raise
    except Exception as error:
        raise RefusedPickle(f"is not a pickle, or a damaged one ({error})") from error


class _Tuples:
    """How large the tuples become that a pickle builds out of one another.

    A tuple is hashed anew each time that it is the key of something, with all that is in it: thirty that each hold the
    one before twice would take minutes.
    """

    def __init__(self) -> None:
        self._stack: list[int] = []  # what the unpickler has on its stack, as numbers of values: 1 but for tuples
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, name: str, argument: Any) -> None:
        """One instruction of those that are allowed. Raises whatever damaged pickles make it raise."""
        stack = self._stack
        if name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("TUPLE", "FROZENSET"):
            stack.append(self._together(self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            parts = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(self._together(parts))
        elif name in ("LIST", "DICT"):
            self._since_mark()
            stack.append(1)
        elif name in ("APPENDS", "ADDITEMS", "SETITEMS", "POP_MARK"):
            self._since_mark()
        elif name in ("APPEND", "BUILD"):
            stack.pop()
        elif name == "SETITEM":
            del stack[-2:]
        elif name in ("REDUCE", "NEWOBJ", "STACK_GLOBAL"):
            del stack[-2:]
            stack.append(1)
        elif name == "POP":
            if self._marks and self._marks[-1] == len(stack):
                self._marks.pop()
            else:
                stack.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in _MEMO_OPCODES:
            self._memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[int(argument)])
        else:
            stack.append(1)

    def _since_mark(self) -> list[int]:
        place = self._marks.pop()
        parts = self._stack[place:]
        del self._stack[place:]
        return parts

    @staticmethod
    def _together(parts: list[int]) -> int:
        size = 1 + sum(parts)
        if size > _LARGEST_TUPLE and size > 1 + len(parts):
            raise RefusedPickle("puts tuples into tuples over and over, which no file of arrays needs")
        return size


_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """The names of a pickle's instructions and their arguments.

    As `pickletools.genops`, which takes the texts of protocol 0 for ASCII: Python 2 put the bytes of arrays there.
    """
    file = io.BytesIO(content)
    while True:
        opcode = _BY_CODE[file.read(1)]
        if opcode.name == "STRING":
            if not file.readline().endswith(b"\n"):
                raise ValueError("a text without an end")
            yield opcode.name, None
            continue
        yield opcode.name, None if opcode.arg is None else opcode.arg.reader(file)
        if opcode.name == "STOP":
            return


class _Sealed(type):
    """Classes that a pickle cannot alter."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise RefusedPickle(f"tries to alter {cls.__name__}")

    def __delattr__(cls, name: str) -> None:
        raise RefusedPickle(f"tries to alter {cls.__name__}")


class _Record(metaclass=_Sealed):
    """Something the pickle asked for: what it was called with, and the state it was given. Does nothing."""

    __slots__ = ("args", "state")
    args: tuple[object, ...]
    state: object

    def __new__(cls, *args: object) -> _Record:
        record = super().__new__(cls)
        object.__setattr__(record, "args", args)
        object.__setattr__(record, "state", None)
        return record

    def __setstate__(self, state: object) -> None:
        object.__setattr__(self, "state", state)

    def __setattr__(self, name: str, value: object) -> None:
        raise RefusedPickle(f"tries to set {name}")


class _Ndarray(_Record):
    """The type numpy.ndarray, named as an argument."""


class _Dtype(_Record):
    """numpy.dtype(name, align, copy)."""


class _Reconstruct(_Record):
    """numpy's array without data; its state is (version, shape, dtype, fortran order, data)."""


class _FromBuffer(_Record):
    """numpy's array of protocol 5: (data, dtype, shape, order), and the order of its axes where they are permuted."""


class _Scalar(_Record):
    """A numpy number."""


class _Encode(_Record):
    """_codecs.encode(text, "latin1"): bytes, as Python 3 writes them for old protocols."""


class _Column(_Record):
    """A scipy csc matrix."""


class _Row(_Record):
    """A scipy csr matrix."""


class _Coordinates(_Record):
    """A scipy coo matrix."""


class _Ch(_Record):
    """chumpy's array: state x."""


class _Select(_Record):
    """chumpy's indexing: state a, idxs, preferred_shape."""


class _Object(_Record):
    """Anything else that may appear but is not read: object, set, other chumpy classes."""


class _Constructor:
    """copyreg._reconstructor(class, base, state): an instance, as protocols 0 and 1 write it."""

    __slots__ = ()  # nothing that a pickle could alter

    def __call__(self, *args: object) -> _Record:
        made = args[0] if args else None
        if not (isinstance(made, type) and issubclass(made, _Record)):
            raise RefusedPickle("reconstructs something that is no array")
        return made()


_NUMPY_CORES = ("numpy.core", "numpy._core")
_SPARSE_KINDS = {"csc": _Column, "csr": _Row, "coo": _Coordinates}
_NAMES: dict[tuple[str, str], type | _Constructor] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
    ("copy_reg", "_reconstructor"): _Constructor(),
    ("copyreg", "_reconstructor"): _Constructor(),
    ("__builtin__", "object"): _Object,
    ("builtins", "object"): _Object,
    ("__builtin__", "set"): _Object,
    ("builtins", "set"): _Object,
    ("collections", "OrderedDict"): dict,
    ("chumpy.ch", "Ch"): _Ch,
    ("chumpy", "Ch"): _Ch,
    ("chumpy.reordering", "Select"): _Select,
    **{(f"{core}.multiarray", "_reconstruct"): _Reconstruct for core in _NUMPY_CORES},
    **{(f"{core}.multiarray", "scalar"): _Scalar for core in _NUMPY_CORES},
    **{(f"{core}.numeric", "_frombuffer"): _FromBuffer for core in _NUMPY_CORES},
    **{
        (module.format(kind), f"{kind}_{noun}"): record
        for kind, record in _SPARSE_KINDS.items()
        for noun in ("matrix", "array")
        for module in ("scipy.sparse.{}", "scipy.sparse._{}", "scipy.sparse")
    },
}


_UNREAD = frozenset(
    ("matrix", *(f"{kind}_{noun}" for kind in ("lil", "dok", "bsr", "dia") for noun in ("matrix", "array")))
)
"""Kinds of arrays of numpy and scipy that no hand model needs."""

_HARMLESS = frozenset(
    [(module, "complex") for module in ("builtins", "__builtin__")] + [("collections", "defaultdict")]
)
"""What is neither an array nor dangerous."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type | _Constructor:
        """What a name in the pickle stands for: never the thing itself."""
        found = _NAMES.get((module, name))
        if found is not None:
            return found
        if module.startswith("chumpy.") and name.isidentifier():
            return _Object
        if module.split(".")[0] in ("numpy", "scipy") and name in _UNREAD:
            raise RefusedPickle(f"holds a {module}.{name}, a kind of array that is not read here: save the plain array")
        if (module, name) in _HARMLESS:
            raise RefusedPickle(f"holds a {module}.{name}, which is not read here: save plain dictionaries and arrays")
        raise RefusedPickle(
            f"asks for {module}.{name}, which no file of arrays needs: it was made to run code on your computer, or "
            "is not a hand model; do not open it with anything else"
        )

    def persistent_load(self, pid: object) -> object:
        raise RefusedPickle("refers to an object outside itself")


def _plain(value: object, done: dict[int, Plain], depth: int) -> Plain:
    """`value` without records. done: what containers became, by id, since a pickle may hold one in many places."""
    if depth > _DEEPEST:
        raise RefusedPickle("nested too deeply")
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) in done:
        return done[id(value)]
    found: Plain
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise RefusedPickle("holds a dictionary whose keys are not texts")
        found = {key: _plain(item, done, depth + 1) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        found = [_plain(item, done, depth + 1) for item in value]
    elif isinstance(value, _Scalar):
        found = _number(value)
    else:
        found = _array(value, depth)
    done[id(value)] = found
    return found


def _number(record: _Record) -> Plain:
    if len(record.args) != 2:
        raise RefusedPickle("holds a number without a value")
    kind, raw = _dtype(record.args[0]), _bytes(record.args[1])
    if len(raw) != kind.itemsize:
        raise RefusedPickle("holds a number of the wrong length")
    number: Plain = np.frombuffer(raw, dtype=kind)[0].item()
    return number


def _array(value: object, depth: int = 0) -> np.ndarray:
    """The array that a record, a number or a list of them stands for."""
    if depth > _DEEPEST:
        raise RefusedPickle("nested too deeply")
    if isinstance(value, (_Reconstruct, _FromBuffer)):
        return _dense(value)
    if isinstance(value, (_Column, _Row, _Coordinates)):
        return _sparse(value, depth)
    if isinstance(value, _Ch):
        return _array(_state(value).get("x"), depth + 1)
    if isinstance(value, _Select):
        state = _state(value)
        whole = _array(state.get("a"), depth + 1).ravel()
        chosen = whole[_array(state.get("idxs"), depth + 1)]
        shape = state.get("preferred_shape")
        return chosen if shape is None else chosen.reshape(_shape(shape))
    if isinstance(value, (int, float)):
        return np.array(value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        return np.array(value)
    raise RefusedPickle(f"a {type(value).__name__.strip('_')} is not a kind of array known here")


def _dense(record: _Record) -> np.ndarray:
    axes = None
    if isinstance(record, _FromBuffer):
        data, dtype, shape, order = record.args[:4]
        fortran = order == "F"
        axes = _shape(record.args[4]) if order == "K" and len(record.args) == 5 else None
    else:
        _, shape, dtype, flag, data = _tuple(record.state, 5)
        fortran = bool(flag)
    kind = _dtype(dtype)
    sizes = _shape(shape)
    raw = _bytes(data)
    if math.prod(sizes) * kind.itemsize != len(raw):
        raise RefusedPickle(f"shape {sizes} does not fit its {len(raw)} bytes")
    stored = np.frombuffer(raw, dtype=kind).reshape(sizes, order="F" if fortran else "C")
    return stored if axes is None else stored.transpose(axes)


def _dtype(record: object) -> np.dtype:
    """Plain numbers only: never objects, whose bytes would be taken for addresses."""
    if not isinstance(record, _Dtype) or not record.args or not isinstance(record.args[0], str):
        raise RefusedPickle("a type of numbers is missing")
    name = record.args[0].lstrip("<>|=")
    if name[:1] not in set("fiub") or not name[1:].isdigit():
        raise RefusedPickle(f"holds '{name}', expected numbers")
    order = "<"
    if isinstance(record.state, tuple) and len(record.state) > 1 and record.state[1] == ">":
        order = ">"
    return np.dtype(order + name)


def _sparse(record: _Record, depth: int) -> np.ndarray:
    """The dense matrix of a scipy sparse one."""
    state = _state(record)
    shape = _shape(state["_shape"] if "_shape" in state else state["shape"])
    if len(shape) != 2 or math.prod(shape) * 8 > _LARGEST_ARRAY:
        raise RefusedPickle(f"has shape {shape}")
    data = _array(state["data"], depth + 1)
    if isinstance(record, _Coordinates):
        if "coords" in state:
            rows, columns = (_array(part, depth + 1) for part in _tuple(state["coords"], 2))
        else:
            rows, columns = _array(state["row"], depth + 1), _array(state["col"], depth + 1)
    else:
        starts, inner = _array(state["indptr"], depth + 1), _array(state["indices"], depth + 1)
        lengths = np.diff(starts)
        if len(lengths) != shape[1 if isinstance(record, _Column) else 0] or lengths.sum() != len(data):
            raise RefusedPickle("has an index that does not fit its shape")
        outer = np.repeat(np.arange(len(lengths)), lengths)
        rows, columns = (inner, outer) if isinstance(record, _Column) else (outer, inner)
    if data.dtype.kind not in "fiu" or rows.min(initial=0) < 0 or columns.min(initial=0) < 0:
        raise RefusedPickle("has an index that does not fit its shape")
    dense = np.zeros(shape)
    np.add.at(dense, (rows, columns), data)
    return dense


def _state(record: _Record) -> dict[object, object]:
    if not isinstance(record.state, dict):
        raise RefusedPickle("has no content")
    return record.state


def _tuple(value: object, length: int) -> tuple[object, ...]:
    if not isinstance(value, tuple) or len(value) != length:
        raise RefusedPickle("has no content")
    return value


def _shape(value: object) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else ()
    if not sizes or not all(type(n) is int and 0 <= n <= _LARGEST_ARRAY for n in sizes):
        raise RefusedPickle(f"has the shape {value!r:.80}")
    return sizes


def _bytes(value: object) -> bytes:
    if isinstance(value, _Encode):
        if len(value.args) != 2 or value.args[1] != "latin1":
            raise RefusedPickle("has data in an unknown encoding")
        value = value.args[0]
    if isinstance(value, str):  # a Python 2 string, read as latin1
        return value.encode("latin1")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise RefusedPickle("has no data")
