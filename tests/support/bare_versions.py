"""Small versions that no model could be loaded from, and what tests of the store do with them."""

from __future__ import annotations

from mltrain.store.publishing import publish_version

NOON_MS = 1_760_529_600_000
HAND = {"why": "a test", "by": "me@host", "now_ms": NOON_MS}


def files_of(mark):
    """Return the files of a version; `mark` distinguishes them from those of another."""
    return {"lgbm.pkl": b"model " + mark, "model_card.json": b'{"mark": "' + mark + b'"}', "report.html": b""}


def publish(store, mark, *, verdict="GO", date="2025-10-15"):
    """Publish one version and return it."""
    return publish_version(store, files_of(mark), verdict=verdict, date=date, now_ms=NOON_MS)


def tree(folder):
    """Return everything in a folder except locks: path, and bytes or link target."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}"
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def edit(path, old, new):
    """Replace bytes that occur once in a file."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
