"""Reads arrays out of a pickle without running anything in it.

MANO's official files are Python 2 pickles that hold NumPy arrays, SciPy sparse matrices and chumpy expressions.
Unpickling calls whatever a file names, so here every name on a short list stands for an inert record that only keeps
what it was given, every other name is refused, and the records are read afterwards by the code below. NumPy, SciPy
and chumpy code is never called on behalf of the file (chumpy is not even needed).
"""

from __future__ import annotations

import codecs
import io
import math
import pickle
import pickletools
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

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
_LARGEST_ARRAY = 256 * 1024 * 1024  # bytes, of all arrays together; MANO's largest is 2.5 MB
_MOST_DIMENSIONS = 32
_MOST_ARGUMENTS = 8  # of a record; arrays need 5
_LARGEST_KEY = 1000  # values in a tuple as if written out, characters of a text, bytes of a number
_LARGEST_TUPLE = 100_000  # the same, of one that is no key
_MOST_KEYS = 10_000  # of dictionaries and sets, those that are short texts not counted
_MOST_INSTRUCTIONS = 1_000_000  # of a file of arrays, each some 200 bytes at most; MANO's have hundreds
_MOST_PLAIN_INSTRUCTIONS = 20_000_000
_DEEPEST = 20  # nesting of chumpy expressions; MANO's is 2


_OTHER_FILES = (
    (b"\x1f\x8b", "is compressed by gzip: unpack it"),
    (b"version https://git-lfs", "is only git's note of where the file lies: get it by git lfs pull"),
    (b"<", "is a web page, perhaps of a download that asks for a login: get the file itself"),
)
"""What people have in place of a file, by how it begins."""


class RefusedPickle(Exception):
    """The pickle asks for something that arrays do not need, or does not hold what it should."""


def other_file(start: bytes) -> str | None:
    """What lies in place of a file that was not understood, and what to do, by its first bytes (30 at least where there
    are so many); None where they do not tell."""
    if not start:
        return "is empty: get it again"
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    return next((says for begins, says in _OTHER_FILES if text.startswith(begins)), None)


def read_pickle(content: bytes, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays stored under `keys` in the dictionary that a pickle holds; keys that it lacks are left out.

    Chumpy expressions and sparse matrices become plain arrays. Raises RefusedPickle with the reason.
    """
    stored = _load(content, _MOST_INSTRUCTIONS)
    if not isinstance(stored, dict):
        raise RefusedPickle(f"holds a {type(stored).__name__}, expected a dictionary of arrays")
    arrays, reader = {}, _Reader()
    for key in keys:
        if key in stored:
            try:
                arrays[key] = reader.array(stored[key])
            except RefusedPickle as refused:
                raise RefusedPickle(f"holds no array under '{key}': {refused}") from refused
            except Exception as error:
                raise RefusedPickle(f"is damaged at '{key}' ({_named(error)})") from error
    return arrays


def _load(content: bytes, most: int) -> object:
    """What the pickle holds, records in place of everything that is not built in. most: instructions in it."""
    _check_opcodes(content, most)
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except RefusedPickle:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise RefusedPickle(f"is a damaged pickle ({_named(error)})") from error


def _named(error: Exception) -> str:
    """An error for a message, cut, since errors quote texts of the file."""
    return f"{type(error).__name__}: {str(error)[:200]}"


Plain = dict[str, "Plain"] | list["Plain"] | np.ndarray | str | bytes | float | int | bool | None
"""What `read_plain_pickle` gives."""


def read_plain_pickle(content: bytes) -> Plain:
    """What a pickle of nested dictionaries, lists, texts, numbers and arrays holds; tuples become lists.

    Raises RefusedPickle with the reason, also for dictionaries whose keys are not texts.
    """
    stored = _load(content, _MOST_PLAIN_INSTRUCTIONS)
    try:
        return _Reader().plain(stored, 0)
    except RefusedPickle:
        raise
    except Exception as error:  # records may have been given anything
        raise RefusedPickle(f"is a damaged pickle ({_named(error)})") from error


def check_keys(file: BinaryIO) -> None:
    """Looks through one pickle in a file, whatever it asks for, for keys that would take time without end.

    Raises RefusedPickle where there are such, and what damaged pickles make it raise. Afterwards the file is behind it.
    """
    keys = _Keys()
    for name, argument in _instructions(file):
        keys.follow(name, argument)
        keys.require_small_tuples()  # which may become keys where none are seen: as arguments


def _check_opcodes(content: bytes, most: int) -> None:
    """Looks through the whole pickle before any of it is interpreted.

    This also makes sure that all announced data is there, before the unpickler takes memory for it.
    """
    count = 0
    keys = _Keys()
    try:
        for name, argument in _instructions(io.BytesIO(content)):
            count += 1
            if count > most:
                raise RefusedPickle(f"has more than {most} pickle instructions, which no file of arrays needs")
            if name not in _OPCODES:
                raise RefusedPickle(f"uses the pickle instruction {name}, which no file of arrays needs")
            if name in _MEMO_OPCODES and int(argument or 0) > count:  # would make the reader allocate that much
                raise RefusedPickle("is a damaged pickle (its memo has holes)")
            keys.follow(name, argument)
    except RefusedPickle:
        raise
    except Exception as error:
        raise RefusedPickle(f"is not a pickle, or a damaged one ({_named(error)})") from error


class _Keys:
    """How much work the keys of a pickle's dictionaries and sets are.

    A key is hashed and compared anew each time that it is used, with all that is in it, and only the hashes of texts
    cannot be foreseen. So a small file could take hours: with thirty tuples that each hold the one before twice, with
    one long key in many places, or with many numbers of the same hash.
    """

    def __init__(self) -> None:
        # what the unpickler has on its stack, by its size as a key: 0 for texts, else as if written out
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}
        self._used = 0

    def follow(self, name: str, argument: Any) -> None:
        """One instruction of those that are allowed. Raises whatever damaged pickles make it raise."""
        stack = self._stack
        if name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(_together(self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(_together([stack.pop() for _ in range(int(name[-1]))]))
        elif name == "FROZENSET":
            parts = self._since_mark()
            self._use(parts)
            stack.append(_together(parts))
        elif name == "LIST":
            self._since_mark()
            stack.append(1)
        elif name == "DICT":
            self._use(self._since_mark()[::2])
            stack.append(1)
        elif name in ("APPENDS", "POP_MARK"):
            self._since_mark()
        elif name == "ADDITEMS":
            self._use(self._since_mark())
        elif name == "SETITEMS":
            self._use(self._since_mark()[::2])
        elif name in ("APPEND", "BUILD"):
            stack.pop()
        elif name == "BINPERSID":
            stack[-1] = 1
        elif name == "SETITEM":
            self._use(stack[-2:-1])
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
        elif isinstance(argument, (str, bytes)) and name != "GLOBAL":
            stack.append(0 if len(argument) <= _LARGEST_KEY else _NO_KEY)
        elif isinstance(argument, int) and argument.bit_length() > 8 * _LARGEST_KEY:
            stack.append(_NO_KEY)
        else:
            stack.append(1)

    def require_small_tuples(self) -> None:
        """Raises RefusedPickle where the last instruction made a tuple that is, written out, larger than any file's."""
        if self._stack and self._stack[-1] > _LARGEST_TUPLE:
            raise RefusedPickle(f"holds a tuple that, written out, has more than {_LARGEST_TUPLE} parts")

    def _since_mark(self) -> list[int]:
        place = self._marks.pop()
        parts = self._stack[place:]
        del self._stack[place:]
        return parts

    def _use(self, keys: list[int]) -> None:
        self._used += sum(keys)
        if max(keys, default=0) > _LARGEST_KEY or self._used > _MOST_KEYS:
            raise RefusedPickle("has keys that are too large or too many for a file of arrays")


_NO_KEY = _LARGEST_KEY + 1


def _together(parts: list[int]) -> int:
    """A tuple's size as a key."""
    return min(1 + sum(max(part, 1) for part in parts), _LARGEST_TUPLE + 1)


_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def _instructions(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """The names of a pickle's instructions and their arguments.

    As `pickletools.genops`, which takes the texts of protocol 0 for ASCII: Python 2 put the bytes of arrays there.
    """
    while True:
        opcode = _BY_CODE[file.read(1)]
        if opcode.name == "STRING":
            line = file.readline()
            if not line.endswith(b"\n"):
                raise ValueError("a text without an end")
            yield opcode.name, line
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
        if len(args) > _MOST_ARGUMENTS:  # each record has a copy of them
            raise RefusedPickle(f"gives {len(args)} arguments to what an array is made of")
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
        made = args[0] if len(args) == 3 else None
        if not (isinstance(made, type) and issubclass(made, _Record)):
            raise RefusedPickle("reconstructs something that is no array")
        return made()


class _OrderedDict:
    """collections.OrderedDict(): a dictionary, into which Python 3's pickles put the content afterwards.

    Not from arguments, as Python 2 did: a pickle can give the same ones any number of times.
    """

    __slots__ = ()

    def __call__(self, *args: object) -> dict[object, object]:
        if args not in ((), ([],)):
            raise RefusedPickle("holds a filled OrderedDict of Python 2, which is not read here: save a dictionary")
        return {}


_NUMPY_CORES = ("numpy.core", "numpy._core")
_SPARSE_KINDS = {"csc": _Column, "csr": _Row, "coo": _Coordinates}
_NAMES: dict[tuple[str, str], type | _Constructor | _OrderedDict] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
    ("copy_reg", "_reconstructor"): _Constructor(),
    ("copyreg", "_reconstructor"): _Constructor(),
    ("__builtin__", "object"): _Object,
    ("builtins", "object"): _Object,
    ("__builtin__", "set"): _Object,
    ("builtins", "set"): _Object,
    ("collections", "OrderedDict"): _OrderedDict(),
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
    def find_class(self, module: str, name: str) -> type | _Constructor | _OrderedDict:
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
            f"asks for {module[:50]}.{name[:50]}, which no file of arrays needs: it was made to run code on your "
            "computer, or is not a hand model; do not open it with anything else"
        )

    def persistent_load(self, pid: object) -> object:
        raise RefusedPickle("refers to an object outside itself")


class _Reader:
    """Makes what a pickle's records stand for, each once however often the pickle refers to it, within a budget."""

    def __init__(self) -> None:
        # by id: all of the pickle's objects live as long as the reader
        self._arrays: dict[int, np.ndarray] = {}
        self._containers: dict[int, Plain] = {}
        self._left = _LARGEST_ARRAY

    def plain(self, value: object, depth: int) -> Plain:
        """`value` without records."""
        if depth > _DEEPEST:
            raise RefusedPickle("nested too deeply")
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if isinstance(value, _Scalar):
            return _number(value)
        if not isinstance(value, (dict, list, tuple)):
            return self.array(value, depth)
        if id(value) not in self._containers:
            if not isinstance(value, dict):
                self._containers[id(value)] = [self.plain(item, depth + 1) for item in value]
            elif all(isinstance(key, str) for key in value):
                self._containers[id(value)] = {key: self.plain(item, depth + 1) for key, item in value.items()}
            else:
                raise RefusedPickle("holds a dictionary whose keys are not texts")
        return self._containers[id(value)]

    def array(self, value: object, depth: int = 0) -> np.ndarray:
        """The array that a record, a number or a list of them stands for."""
        if depth > _DEEPEST:
            raise RefusedPickle("nested too deeply")
        if id(value) not in self._arrays:
            self._arrays[id(value)] = self._made(value, depth)
        return self._arrays[id(value)]

    def _made(self, value: object, depth: int) -> np.ndarray:
        if isinstance(value, (_Reconstruct, _FromBuffer)):
            return self._dense(value)
        if isinstance(value, (_Column, _Row, _Coordinates)):
            return self._sparse(value, depth)
        if isinstance(value, _Ch):
            return self.array(_state(value).get("x"), depth + 1)
        if isinstance(value, _Select):
            return self._select(value, depth)
        if isinstance(value, (int, float)):
            return _numeric(value)
        if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
            self._take(8 * len(value))
            return _numeric(value)
        raise RefusedPickle(f"a {type(value).__name__.strip('_')} is not a kind of array known here")

    def _take(self, size: int) -> None:
        """Called before so many bytes are taken."""
        self._left -= size
        if self._left < 0:
            raise RefusedPickle(f"unpacks to more than {_LARGEST_ARRAY >> 20} MiB, far more than any file of arrays")

    def _select(self, record: _Record, depth: int) -> np.ndarray:
        state = _state(record)
        whole, chosen = self.array(state.get("a"), depth + 1), self.array(state.get("idxs"), depth + 1)
        self._take(whole.nbytes + 8 * chosen.size + whole.itemsize * chosen.size)  # with what NumPy needs meanwhile
        found = whole.ravel()[chosen]
        shape = state.get("preferred_shape")
        return found if shape is None else found.reshape(_shape(shape))

    def _dense(self, record: _Record) -> np.ndarray:
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
        self._take(len(raw))
        stored = np.frombuffer(raw, dtype=kind).reshape(sizes, order="F" if fortran else "C")
        return stored if axes is None else stored.transpose(axes)

    def _sparse(self, record: _Record, depth: int) -> np.ndarray:
        """The dense matrix of a scipy sparse one."""
        state = _state(record)
        shape = _shape(state["_shape"] if "_shape" in state else state["shape"])
        if len(shape) != 2 or math.prod(shape) * 8 > _LARGEST_ARRAY:
            raise RefusedPickle(f"has shape {shape}")
        data = self.array(state["data"], depth + 1)
        self._take(8 * (math.prod(shape) + 2 * data.size))  # with the places of its values
        if isinstance(record, _Coordinates):
            if "coords" in state:
                rows, columns = (self.array(part, depth + 1) for part in _tuple(state["coords"], 2))
            else:
                rows, columns = self.array(state["row"], depth + 1), self.array(state["col"], depth + 1)
        else:
            starts, inner = self.array(state["indptr"], depth + 1), self.array(state["indices"], depth + 1)
            lengths = np.diff(starts)
            fits = len(lengths) == shape[1 if isinstance(record, _Column) else 0] and lengths.sum() == len(data)
            # each by itself, too: the sum of huge ones wraps to a small one, and np.repeat then writes past its end
            if not fits or lengths.min(initial=0) < 0 or lengths.max(initial=0) > len(data):
                raise RefusedPickle("has an index that does not fit its shape")
            outer = np.repeat(np.arange(len(lengths)), lengths)
            rows, columns = (inner, outer) if isinstance(record, _Column) else (outer, inner)
        if data.dtype.kind not in "fiu" or rows.min(initial=0) < 0 or columns.min(initial=0) < 0:
            raise RefusedPickle("has an index that does not fit its shape")
        if not rows.shape == columns.shape == data.shape == (len(data),):
            raise RefusedPickle("has values and places of different numbers")
        dense = np.zeros(shape)
        np.add.at(dense, (rows, columns), data)
        return dense


def _numeric(value: object) -> np.ndarray:
    array = np.array(value)
    if array.dtype.kind not in "fiub":
        raise RefusedPickle("holds a number that no array can hold")
    return array


def _number(record: _Record) -> Plain:
    if len(record.args) != 2:
        raise RefusedPickle("holds a number without a value")
    kind, raw = _dtype(record.args[0]), _bytes(record.args[1])
    if len(raw) != kind.itemsize:
        raise RefusedPickle("holds a number of the wrong length")
    number: Plain = np.frombuffer(raw, dtype=kind)[0].item()
    return number


def _dtype(record: object) -> np.dtype:
    """Plain numbers only: never objects, whose bytes would be taken for addresses."""
    if not isinstance(record, _Dtype) or not record.args or not isinstance(record.args[0], str):
        raise RefusedPickle("a type of numbers is missing")
    name = record.args[0].lstrip("<>|=")
    if name[:1] not in set("fiub") or not name[1:].isdigit():
        raise RefusedPickle(f"holds '{name:.20}', expected numbers")
    order = "<"
    if isinstance(record.state, tuple) and len(record.state) > 1 and record.state[1] == ">":
        order = ">"
    return np.dtype(order + name)


def _state(record: _Record) -> dict[object, object]:
    if not isinstance(record.state, dict):
        raise RefusedPickle("has no content")
    return record.state


def _tuple(value: object, length: int) -> tuple[object, ...]:
    if not isinstance(value, tuple) or len(value) != length:
        raise RefusedPickle("has no content")
    return value


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not 0 < len(value) <= _MOST_DIMENSIONS:
        count = f" of {len(value)} entries" if isinstance(value, (tuple, list)) else ""
        raise RefusedPickle(f"has a {type(value).__name__.strip('_')}{count} for its shape, expected a few sizes")
    sizes = tuple(n for n in value if type(n) is int and 0 <= n <= _LARGEST_ARRAY)
    if len(sizes) != len(value):
        raise RefusedPickle(f"has a shape whose {len(value)} entries are not all sizes")
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
