"""Damage every kind of file in every way that a disk or a hand can, and ask the commands that read it.

Of each damaged file a command must say so (exit 3), in one message, without a signal, a hang or a gigabyte, and change
nothing. A change that a command takes for the truth is the one thing that must never happen.
"""

from __future__ import annotations

import hashlib
import json
import shutil

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import kit

# Every so many cases, one is also run as the shell would.
COLD_EVERY = 25
VERSION_READERS = (("verify", "model", "{v}"), ("rollback", "{v}"), ("promote", "{v}"))
MODEL_READERS = (("predict", "{v}"), ("bench", "{v}", "--samples", "10"))
CARD_READERS = (("card", "show", "{v}"), ("card", "validate", "{path}"), ("predict", "{v}"))
#: Every kind of file, and the commands that read it. {v} is the damaged version, {path} the file.
READERS = {
    "lgbm.pkl": VERSION_READERS + 2 * MODEL_READERS,
    "model_card.json": VERSION_READERS + CARD_READERS,
    "manifest.json": VERSION_READERS + MODEL_READERS + (("card", "show", "{v}"),),
    "trials.parquet": VERSION_READERS,
    "holdout.parquet": VERSION_READERS,
    "features.yml": VERSION_READERS,
    "promotions.jsonl": (("models", "history"),),
    "looks.jsonl": (kit.TRAIN,),
    "snapshot parquet": (("verify", "snapshot"), kit.TRAIN),
    "snapshot manifest": (("verify", "snapshot"), kit.TRAIN, ("predict",)),
    "study journal": ((*kit.TRAIN, "--no-promote", "--resume"), (*kit.TRAIN, "--no-promote")),
}
WEIGHTS = {"lgbm.pkl": 4, "model_card.json": 3, "manifest.json": 3}


def flip(data, rng):
    """Change one bit."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def retype(data, rng):
    """Replace one digit by another: a well-formed change is the hardest to detect."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return flip(data, rng)
    at = rng.choice(digits)
    return data[:at] + bytes([48 + (data[at] - 48 + rng.randrange(1, 10)) % 10]) + data[at + 1 :]


def cut(data, rng):
    """Remove the end."""
    return data[: rng.randrange(len(data))]


def zero(data, rng):
    """Set a range of bytes to zero, as a lost page does."""
    at, length = rng.randrange(len(data)), rng.choice([1, 16, 512, 4096])
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def drop(data, rng):
    """Remove a range of bytes."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 7, 100]) :]


def insert(data, rng):
    """Insert random bytes."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice([1, 2, 64])) + data[at:]


def repeat(data, rng):
    """Write a range of bytes twice."""
    at, length = rng.randrange(len(data)), rng.choice([1, 8, 200])
    return data[: at + length] + data[at:]


def swap(data, rng):
    """Exchange two ranges of bytes."""
    length = min(rng.choice([1, 8, 64]), len(data) // 2)
    a = rng.randrange(len(data) - 2 * length + 1)
    b = rng.randrange(a + length, len(data) - length + 1)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def grow(data, rng):
    """Append some bytes."""
    return data + rng.choice([b"\n", b"\0", b"{}\n", b" ", rng.randbytes(9)])


WAYS = (flip, flip, retype, retype, cut, zero, drop, insert, repeat, swap, grow)


def place(folder, kind, version):
    """Return the path of a file of that kind."""
    models = folder / "models"
    if kind.startswith("snapshot"):
        (snapshot,) = (p for p in (folder / "snapshots").iterdir() if p.is_dir() and not p.is_symlink())
        return snapshot / ("manifest.json" if "manifest" in kind else "BTCUSDT.parquet")
    return models / kind if kind.endswith(".jsonl") else models / version / kind


def torn(kind, data, changed):
    """Return whether a log merely has a torn end: a crash leaves one, and it is ignored.

    Looks that are lost with their line are not missed: nothing else records them.
    """
    whole = changed[: changed.rfind(b"\n") + 1]
    return (kind.endswith(".jsonl") and data == whole) or (kind == "looks.jsonl" and data.startswith(whole))


def mutations(plan):
    """Damage one thousand files."""
    tally = kit.Tally("mutations")
    plan.copy()
    kinds = [kind for kind in READERS for _ in range(WEIGHTS.get(kind, 1))]
    versions = kit.versions(plan.base)
    before = kit.tree(plan.base)

    def attempt(case):
        rng = plan.rng(case)
        kind, version = kinds[case % len(kinds)], rng.choice(versions)
        if kind == "study journal":
            return train_again(plan, rng, f"journal{case % 2}", rng.choice(READERS[kind]))
        folder = plan.work / f"data{case % 2}"
        if not folder.exists():
            shutil.copytree(plan.base, folder, symlinks=True)
        path = place(folder, kind, version)
        data = path.read_bytes()
        changed = data
        while changed == data or torn(kind, data, changed):
            way = rng.choice(WAYS)
            changed = way(data, rng)
        words = [word.format(v=version, path=path) for word in rng.choice(READERS[kind])]
        path.write_bytes(changed)
        call = kit.cold if case % COLD_EVERY == 0 else kit.warm
        ended = call(*words, data_dir=None if words[:2] == ["card", "validate"] else folder)
        problem = kit.unclean(ended)
        left = path.read_bytes() if path.exists() else b""
        path.write_bytes(data)
        if not problem and (left != changed or kit.tree(folder) != before):
            problem = "something was changed"
        if problem:
            shutil.rmtree(folder)
            return f"{kind} by {way.__name__}, mltrain {' '.join(words)}: {problem}"
        return None

    tally.add(kit.run_in_forks(attempt, plan.cases(1000, 19)))
    return tally


def train_again(plan, rng, name, words):
    """Damage the study's journal: it is refused, or the training makes the model of a folder without a journal.

    The version of that study is taken away: while it is there, no search is run.
    """
    folder = plan.copy(name)
    shutil.rmtree(folder / "models" / kit.versions(folder)[0])
    (path, *_) = sorted((folder / "studies").glob("*-42.journal"))
    way = rng.choice(WAYS)
    path.write_bytes(way(path.read_bytes(), rng))
    ended = kit.warm(*words, data_dir=folder, timeout=60)
    problem = kit.unclean(ended, (0, 3))
    if problem is None and ended.code == 0:
        made, wanted = (
            (data / "models" / kit.versions(data)[at] / "lgbm.pkl").read_bytes()
            for data, at in ((folder, -1), (plan.base, 0))
        )
        problem = None if made == wanted else "another model came out"
    return problem and f"study journal by {way.__name__}, mltrain {' '.join(words)}: {problem}"


def journals(plan):
    """Damage further journals of a study."""
    tally = kit.Tally("journal")

    def attempt(case):
        rng = plan.rng(case)
        return train_again(plan, rng, f"journal{case % 2}", rng.choice(READERS["study journal"]))

    tally.add(kit.run_in_forks(attempt, plan.cases(40, 1)))
    return tally


def changed(data, rng):
    """Damage bytes in one of the ways; one without effect, such as zeros over zeros, does not count."""
    while (damaged := rng.choice(WAYS)(data, rng)).rstrip() == data.rstrip():
        pass
    return damaged


def write_keys(path, seed):
    """Write a private key and its public one, `.pub`, derived from 32 bytes, so that the seed repeats a case."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    pem, plain = Encoding.PEM, NoEncryption()
    path.write_bytes(key.private_bytes(pem, PrivateFormat.PKCS8, plain))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo))


def forgeries(plan):
    """Change versions and recompute every hash: where a signature is required, all are found."""
    from hostile import reseal, write_sealed

    tally = kit.Tally("forgeries")
    keys = plan.work / "keys"
    keys.mkdir()
    for name in ("ours", "theirs"):
        write_keys(keys / name, hashlib.sha256(f"{plan.seed} {name}".encode()).digest())
    required = ("--require-signature", keys / "ours.pub")
    base = plan.work / "signed"
    shutil.copytree(plan.base, base, symlinks=True)
    for seed, key in (("7", "ours"), ("8", "ours"), ("9", "theirs")):
        ended = kit.warm(*kit.TRAIN, "--sign", keys / key, "--seed", seed, data_dir=base, timeout=60)
        assert ended.code == 0, ended.err
        # The version is held, so it is promoted by hand.
        assert kit.warm("promote", "latest", data_dir=base).code == 0
    unsigned, _, first, second, theirs = kit.versions(base)
    assert kit.warm("promote", first, *required, data_dir=base).code == 0
    for words in (("predict",), ("verify", "model"), ("rollback", first), ("bench", "--samples", "10"), ("models",)):
        assert kit.warm(*words, *(() if words == ("models",) else required), data_dir=base).code == 0
    calls = (("verify", "model", "{v}"), ("rollback", "{v}"), ("promote", "{v}"), ("predict", "{v}"), ("bench", "{v}"),
             ("card", "show", "{v}"), ("card", "validate", "{p}"))  # fmt: skip

    def attempt(case):
        rng = plan.rng(case)
        folder = plan.work / f"data{case % 2}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder, symlinks=True)
        how = rng.choice(["byte", "byte", "byte", "unsigned", "theirs", "swapped", "gone", "signature", "verdict"])
        version = {"unsigned": unsigned, "theirs": theirs}.get(how, second)
        place = folder / "models" / version
        if how == "byte":
            path = rng.choice([p for p in sorted(place.iterdir()) if p.name not in {"manifest.json", "signature.json"}])
            path.write_bytes(changed(path.read_bytes(), rng))
            reseal(place, card_too=path.name != "model_card.json")
        elif how == "swapped":
            shutil.copy(folder / "models" / first / "signature.json", place)
        elif how == "gone":
            (place / "signature.json").unlink()
        elif how == "signature":
            path = place / "signature.json"
            path.write_bytes(changed(path.read_bytes(), rng))
        elif how == "verdict":
            text = (place / "manifest.json").read_bytes().replace(b'"GO"', b'"NO-GO"')
            write_sealed(place / "manifest.json", json.loads(text))
        words = [word.format(v=version, p=place / "model_card.json") for word in rng.choice(calls)]
        by_variable = case % 2
        env = {"MLTRAIN_REQUIRE_SIGNATURE": str(keys / "ours.pub")} if by_variable else {}
        ended = kit.warm(*words, *(() if by_variable else required), data_dir=folder, env=env)
        problem = kit.unclean(ended)
        if not problem and kit.best(folder) != kit.best(base):
            problem = "the pointer moved"
        return problem and f"{how}, mltrain {' '.join(words)}: {problem}"

    tally.add(kit.run_in_forks(attempt, plan.cases(200, 12)))
    return tally


def tampering(plan):
    """Change one byte of one file of a snapshot or a version: `verify` finds it."""
    tally = kit.Tally("tampering")

    def attempt(case):
        rng = plan.rng(case)
        folder = plan.work / f"data{case % 2}"
        if not folder.exists():
            shutil.copytree(plan.base, folder, symlinks=True)
        version = rng.choice(kit.versions(plan.base))
        snapshot = place(folder, "snapshot manifest", version).parent
        root = rng.choice([snapshot, folder / "models" / version])
        path = rng.choice(sorted(root.iterdir()))
        data = path.read_bytes()
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :])
        what = ("snapshot", snapshot.name) if root == snapshot else ("model", version)
        problem = kit.unclean(kit.warm("verify", *what, data_dir=folder))
        path.write_bytes(data)
        return problem and f"byte {at} of {path.name} of {what}: {problem}"

    tally.add(kit.run_in_forks(attempt, plan.cases(200, 10)))
    return tally
