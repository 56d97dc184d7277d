"""Results of stages, kept under the hash of what they were computed from."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nowag_exp.files import atomic_write, locked, parse_json
from nowag_exp.ledger import Ledger


def content_key(identity: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of a JSON value; equal values have equal keys, whatever the order of their keys."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Stored:
    """Tensors of a stage, and notes on it."""

    tensors: dict[str, Tensor]
    notes: dict[str, Any]


class Store:
    """One safetensors file an entry, with a checksum of its content in its header.

    Args:
        root: folder; made when first written to.
        check: called before an entry is written; raises if what it was computed from is not what it was.
    """

    def __init__(self, root: Path, check: Callable[[], None] = lambda: None) -> None:
        self.root, self.check = root, check

    def path(self, kind: str, key: str) -> Path:
        """Where an entry is."""
        return self.root / kind / f"{key}.safetensors"

    def lock(self, kind: str, key: str) -> AbstractContextManager[None]:
        """Held while an entry is looked up and computed, so that two processes do not compute it twice."""
        return locked(self.path(kind, key))

    def load(self, kind: str, key: str, ledger: Ledger, mapped: bool = False) -> Stored | None:
        """An entry, or ``None`` if there is none; a damaged one is removed and written down in the ledger.

        Args:
            kind: folder of the entry.
            key: name of its file.
            ledger: a damaged entry goes there.
            mapped: leave the tensors in their file, for what may be larger than memory; they must not be written to.
                Entries are replaced whole and never written to, so what is mapped stays what it was.
        """
        path = self.path(kind, key)
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if not mapped:  # Copies: a tensor must not change if somebody writes to the file under its memory map.
                    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            notes = parse_json(header["notes"])
            intact = header["checksum"] == _checksum(tensors, header["notes"])
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError):
            intact = False
        if not intact:
            # Written down first: whoever is killed in between meets it again.
            ledger.add("corrupted_store_entry", f"{kind}/{path.name}", "damaged, so it was computed again")
            path.unlink(missing_ok=True)  # Another process may have met it as well.
            return None
        return Stored(tensors, notes)

    def remove(self, kind: str, key: str) -> None:
        """Remove an entry, if it is there."""
        self.path(kind, key).unlink(missing_ok=True)

    def save(self, kind: str, key: str, stored: Stored) -> None:
        """Write an entry, whole or not at all.

        Raises:
            DiskFullError: if there is no room for it; the other entries are as they were.
            Exception: what ``check`` raises; nothing is written.
        """
        self.check()
        notes = json.dumps(stored.notes, sort_keys=True)
        header = {"notes": notes, "checksum": _checksum(stored.tensors, notes)}
        n_bytes = sum(tensor.nbytes for tensor in stored.tensors.values())
        with atomic_write(self.path(kind, key), n_bytes) as temporary:
            save_file(stored.tensors, temporary, metadata=header)


def _checksum(tensors: Mapping[str, Tensor], notes: str) -> str:
    digest = hashlib.sha256(notes.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # numpy knows no bfloat16
    return digest.hexdigest()
