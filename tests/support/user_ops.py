"""User ops that exist for one test."""

from __future__ import annotations

from contextlib import contextmanager

from mltrain.features import user_ops
from mltrain.features.ops.catalogue import OPS


@contextmanager
def temporary_ops():
    """Restore the table of ops and the imported modules at the end."""
    ops, modules = dict(OPS), dict(user_ops._modules)
    try:
        yield
    finally:
        for now, before in ((OPS, ops), (user_ops._modules, modules)):
            now.clear()
            now.update(before)
