"""The parameters of a network as a file in the safetensors format.

The architecture determines the header of the file to the byte: names, shapes, their order and where each begins. So a
header is compared, never interpreted, and what is wrong with a file cannot depend on how a parser reads it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load, save

from mltrain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.tft.architecture import Architecture

# The length of the header, as an unsigned integer of 64 bits, comes first.
_LENGTH = struct.Struct("<Q")


def encode_weights(parameters: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return parameters by name as a file; equal parameters give equal bytes."""
    return save({name: np.ascontiguousarray(value, np.float32) for name, value in parameters.items()})


def decode_weights(data: bytes, architecture: Architecture, *, where: str) -> dict[str, NDArray[np.float32]]:
    """Return the parameters in a file of a network with this architecture.

    Args:
        data: The bytes of the file.
        architecture: The sizes of the network.
        where: The file's name in messages, usually its path.

    Raises:
        InputError: The file is not one of this architecture, or a parameter is not a finite number.
    """
    empty = encode_weights({name: np.zeros(shape, np.float32) for name, shape in architecture.shapes().items()})
    start = _LENGTH.size + _LENGTH.unpack(empty[: _LENGTH.size])[0]
    if data[:start] != empty[:start]:
        raise InputError(f"{where}: its header is not that of a network of these sizes")
    if len(data) != len(empty):
        raise InputError(f"{where}: holds {len(data):,} bytes instead of {len(empty):,}")
    parameters: dict[str, NDArray[np.float32]] = load(data)
    for name, value in parameters.items():
        if not np.isfinite(value).all():
            raise InputError(f"{where}: the parameter {name} is not finite")
    return parameters
