"""PyTorch's own files from strangers: read without running anything in them, and said what is wrong with them."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, cast

import torch

from wildhands_ros.errors import ModelFileError
from wildhands_ros.hand_model.pickles import RefusedPickle, check_keys, other_file
from wildhands_ros.texts import listed

_PICKLES_BEFORE_ARCHIVES = 5  # in files that are no archives: two numbers, of the system, the content, its keys


def read_pytorch_file(path: Path, what: str) -> object:
    """What `torch.save` wrote, its tensors on the CPU; they may stay mapped from the file.

    what: what the file should be, with its article, for messages. Records of training that are kept beside the weights
    become empty ones. Raises ModelFileError, in words that say what to do, for files that are damaged, compressed,
    something else, or ask for more than tensors and plain values.
    """
    try:
        zipped = _is_zipped(path)
        if zipped:
            _refuse_other_archives(path)
        _refuse_endless_keys(path, zipped)
        if zipped:
            _refuse_damaged_parts(path)
        with _records_beside(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how the file was saved, to whoever cannot change it
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ModelFileError:
        raise
    except RefusedPickle as error:
        raise ModelFileError(f"{path} {error}: not {what}") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file can fail in any way; torch's own words advise to load it unsafely
        raise ModelFileError(f"{path} {_unreadable(error, path)}") from error
    return content


def is_plain(value: torch.Tensor) -> bool:
    """Whether a tensor has its numbers, one after the other, as they are. Its shape may still be without end."""
    strided = value.layout == torch.strided and not value.is_nested
    return strided and not value.is_quantized and value.device.type == "cpu"


def refuse_broken_numbers(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ModelFileError where weights are not finite, or variances negative. tensors: by the names of the file."""
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise ModelFileError(f"{path} contains NaN or infinity in {listed(broken)}")
    broken = [name for name, value in tensors.items() if name.endswith("running_var") and bool((value < 0).any())]
    if broken:
        raise ModelFileError(f"{path} is damaged: it holds variances below 0 in {listed(broken)}. Get it again")


def file_sha256(path: Path) -> str:
    """Of all bytes. Raises ModelFileError where the file cannot be read."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, to be read. Raises ModelFileError where that, or reading from it, fails."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error})") from error


# --- what else may lie in them ----------------------------------------------------------------------------------------


class _Unread:
    """Stands for what training writes beside the weights: takes whatever the file gives it, keeps and does nothing."""

    def __new__(cls, *args: object) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _UnreadMapping:
    """The same for mappings, which torch fills: only plain ones."""

    def __new__(cls, *args: object) -> dict[object, object]:  # type: ignore[misc]
        return {}


# Options, paths and best scores, which are written into the same file. numpy's own would obey the file in too much.
_BESIDE = [
    type(name, (base,), {"__module__": module})
    for base, modules, names in (
        (_Unread, ("argparse",), ("Namespace",)),
        (_Unread, ("pathlib", "pathlib._local"), ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        (_Unread, ("numpy",), ("dtype", "ndarray")),
        (_Unread, ("numpy.core.multiarray", "numpy._core.multiarray"), ("scalar", "_reconstruct")),
        (_UnreadMapping, ("collections",), ("defaultdict",)),
        (_Unread, ("builtins",), ("bool", "int", "float", "str", "list", "tuple", "dict")),  # what such start with
    )
    for module in modules
    for name in names
]


def _records_beside() -> AbstractContextManager[object]:
    """While it is entered, torch puts records in place of what is not needed instead of refusing the whole file."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)  # of PyTorch 2.5 and later
    return nullcontext() if safe_globals is None else safe_globals(_BESIDE)


# --- what is wrong with them ------------------------------------------------------------------------------------------


def _is_zipped(path: Path) -> bool:
    """Files of PyTorch 1.6 and later are zip archives, which can be read without a second copy in memory."""
    with opened(path) as file:
        return file.read(4) == b"PK\x03\x04"


def _refuse_other_archives(path: Path) -> None:
    """Those without what PyTorch writes, and compressed ones: it never compresses, and what does may be small and
    unpack to more than the memory holds."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    if not any(_is_pickle(part) for part in parts):
        others = listed([ascii(part.filename[-60:]) for part in parts if not part.is_dir()]) or "none"
        raise ModelFileError(
            f"{path} is an archive of other files ({others}): unpack it, and name the checkpoint itself"
        )
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    if not stored or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ModelFileError(f"{path} is compressed, which PyTorch's files never are: get it again, or unpack it first")


def _parts(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """What is in an archive, to be read without regard to checksums that are none: told to save faster
    (`torch.serialization.set_crc32_options`), PyTorch writes 0 for each."""
    for part in archive.infolist():
        if part.CRC == 0:
            del part.CRC  # which zipfile takes for unknown
    return archive.infolist()


def _is_pickle(part: zipfile.ZipInfo) -> bool:
    """Whether PyTorch would take a part of an archive for the one that says what the others are."""
    return part.filename.lower().endswith("data.pkl")


def _refuse_damaged_parts(path: Path) -> None:
    """PyTorch takes weights from the disk as they are, also zeros where a download or a copy left a hole."""
    with zipfile.ZipFile(path) as archive:
        for part in _parts(archive):
            try:
                with archive.open(part) as file:
                    while file.read(1 << 22):
                        pass
            except zipfile.BadZipFile as error:
                raise ModelFileError(f"{path} is damaged, at {ascii(part.filename[-60:])}: get it again") from error


def _refuse_endless_keys(path: Path, zipped: bool) -> None:
    """Raises RefusedPickle: a few hundred bytes could otherwise keep torch busy for ever."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for part in _parts(archive):
                if _is_pickle(part):
                    with archive.open(part) as file:
                        check_keys(cast(BinaryIO, file))
        return
    with opened(path) as file:
        check_keys(file)
        with suppress(KeyError):  # of a file that ends: other pickles than torch's are only one, of which torch tells
            for _ in range(_PICKLES_BEFORE_ARCHIVES - 1):
                check_keys(file)


def _unreadable(error: Exception, path: Path) -> str:
    """What is wrong with a file that torch does not load, and what to do."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked is None:
        with opened(path) as file:
            start = file.read(64)
        return other_file(start) or (
            f"is damaged, or not a PyTorch checkpoint of plain tensors ({type(error).__name__}): get it again, or save "
            "it with torch.save's own pickle protocol"
        )
    name = ascii(asked[1][:100])
    if asked[1].startswith(("chumpy.", "scipy.")):
        return f"is no checkpoint: it asks for {name}, as MANO's files do. Their folder is named by --mano-dir"
    return (
        f"holds more than weights: it asks for {name}, which is not read, since it might run code on your computer. "
        "Nothing in it was run. Get it from the weights' authors, or have its state_dict saved alone; do not open it "
        "with anything else"
    )
