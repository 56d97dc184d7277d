"""What the header of a safetensors file says, whoever wrote it; no tensor is read."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from nowag_exp.errors import RequestError
from nowag_exp.files import parse_json
from nowag_exp.formats.base import TensorSpec

STORED_AS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}
LENGTH_BYTES = 8
"""At the start of the file: how long the header is."""


def read_header(path: Path, way_out: str) -> dict[str, TensorSpec]:
    """Type and shape of each tensor of a file.

    Raises:
        RequestError: naming the file, if it is not whole or describes a tensor twice; ``way_out`` says what to do then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            specs = {
                name: TensorSpec(STORED_AS.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            }
        with path.open("rb") as header:  # The library has held the length against the file.
            parse_json(header.read(int.from_bytes(header.read(LENGTH_BYTES), "little")))
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{path}: is not a whole safetensors file ({error}); {way_out}") from error
    except ValueError as error:  # Of two tensors of one name the library takes the last.
        raise RequestError(f"{path}: has a header that contradicts itself ({error}); {way_out}") from error
    return specs


def data_bytes(path: Path) -> int:
    """Bytes of a file without its header."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(LENGTH_BYTES), "little")
    return path.stat().st_size - LENGTH_BYTES - header
