"""What every model on torch and transformers shares: imports, the device, number formats, files."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any, Literal

from vstore.errors import InvalidSetting, MissingDependency
from vstore.settings import require

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")


def import_torch(reader: str) -> tuple[Any, Any]:
    """Return the modules torch and transformers.

    Raises:
        MissingDependency: either cannot be imported.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingDependency(
            f"{reader} needs torch and transformers ({error}); run: pip install 'vstore[rerank]'"
        ) from error
    return torch, transformers


def alone_library(torch: Any) -> Any:
    """Return the library through which `compute_alone` works, or None where this torch has none (no MKL)."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        found = (library.omp_set_num_threads, library.MKL_Set_Num_Threads_Local)
    except (OSError, AttributeError):
        return None
    return library if all(found) else None


def compute_alone(torch: Any) -> None:
    """Let torch's operations of the calling thread run on that thread alone, and change no other thread.

    torch.set_num_threads would change the matrix products of the whole process.
    """
    library = alone_library(torch)
    if library is not None:
        # Its first question to a thread sets what the next lines change.
        torch.get_num_threads()
        library.omp_set_num_threads(1)
        library.MKL_Set_Num_Threads_Local(1)


def device_of(torch: Any, device: str | None) -> Any:
    """Return a torch device that can be used; None is a GPU where torch sees one.

    Raises:
        InvalidSetting: torch cannot use it.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise InvalidSetting(
            f"device is {device!r} and torch cannot use it ({first_line}); try 'cpu'"
        ) from error
    return found


def check_dtype(dtype: Any) -> DType:
    """Return the name of a number format.

    Raises:
        InvalidSetting: it is none of DTYPES.
    """
    require(dtype in DTYPES, f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    checked: DType = dtype
    return checked


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the process lacked memory."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def checkpoint_file(path: str, name: str) -> Path | None:
    """Return a file of a checkpoint folder or hub name, or None where it has none."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)


def read_weights(path: str, prefix: str, stem: str = "model") -> dict[str, Any]:
    """Return the tensors of a safetensors checkpoint whose names begin with `prefix`."""
    from safetensors import safe_open

    index = checkpoint_file(path, f"{stem}.safetensors.index.json")
    if index is not None:
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        parts = [f"{stem}.safetensors"]
    found: dict[str, Any] = {}
    for part in parts:
        file = checkpoint_file(path, part)
        if file is None:
            continue
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(prefix)}  # noqa: SIM118
    return found


def check_loaded(path: str, info: Any, allowed: tuple[str, ...] = ()) -> None:
    """Check that a checkpoint had every weight of its model.

    Raises:
        InvalidSetting: weights are missing, which transformers fills with random numbers.
    """
    missing = sorted(name for name in info["missing_keys"] if name not in allowed)
    require(
        not missing,
        f"{path!r} lacks {len(missing)} weights ({', '.join(missing[:4])}), which would be random: "
        "it is no re-ranker, or is incomplete",
    )


def named_error(path: str, what: str, error: Exception) -> Exception:
    """Return what to raise instead of whatever the libraries under transformers raised over bad files."""
    if isinstance(error, (InvalidSetting, MissingDependency)):
        return error
    if isinstance(error, ImportError):
        return MissingDependency(f"{path!r} needs a package that is not installed: {error}")
    return InvalidSetting(
        f"{path!r} cannot be opened as {what} ({type(error).__name__}: {error}); "
        "give a folder written by save_pretrained with its tokenizer, or the name of one on the hub"
    )
