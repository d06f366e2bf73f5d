"""Artefacts made by an attacker: malicious content with matching hashes.

Anyone who can write into the data folder can compute every hash in it again, so the hashes do not help here: the
checks behind them must hold. Nothing may run (a canary shows it), end by a signal, or take a gigabyte.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import bomb
import kit

SECRET = "do not read me"  # noqa: S105 (a mark that must never show)


def reseal(folder, *, card_too=True):
    """Update the hashes in a version's or a snapshot's manifest, and in its card if that is valid."""
    from mltrain.documents.strict_json import canonical_json

    manifest = folder / "manifest.json"
    document = json.loads(manifest.read_bytes())
    card = folder / "model_card.json"
    if card_too:
        fields = json.loads(card.read_bytes())
        for entry in fields["artifacts"]:
            entry |= _entry(folder / entry["path"])
        card.write_bytes(canonical_json(fields))
    for entry in document["files"]:
        entry |= _entry(folder / entry["path"])
        if entry["path"] == "model_card.json":
            document["card_sha256"] = entry["sha256"]
    write_sealed(manifest, document)


def write_sealed(manifest, document):
    """Write a manifest with a matching hash of itself."""
    from mltrain.documents.strict_json import canonical_json

    document.pop("self_sha256", None)
    document["self_sha256"] = hashlib.sha256(canonical_json(document)).hexdigest()
    manifest.write_bytes(canonical_json(document))


def _entry(path):
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def pickles(canary):
    """Return seventeen streams that run code, exhaust memory, or are not plain data."""
    touch = f"touch {canary}".encode()
    text = b"X" + len(touch).to_bytes(4, "little") + touch
    laughs = (
        b"]q\x00("
        + b"".join(
            b"]q" + bytes([i]) + b"(" + b"h" + bytes([i - 1]) + b"h" + bytes([i - 1]) + b"e" for i in range(1, 40)
        )
        + b"e."
    )
    return {
        "reduce": b"cos\nsystem\n(" + text + b"tR.",
        "reduce-4": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "inst": b"(" + text + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + text + b"o.",
        "newobj": b"\x80\x02cos\nsystem\n" + text + b"\x85\x81.",
        "newobj-ex": b"\x80\x04cos\nsystem\n" + text + b"\x85}\x92.",
        "stack-global": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93" + text + b"\x85R.",
        "build": b"\x80\x02cbuiltins\nobject\n)\x81}U\x01xcos\nsystem\nsb.",
        "ext": b"\x80\x02\x82\x01.",
        "persid": b"Pos.system\n.",
        "binpersid": b"\x80\x02X\x02\x00\x00\x00osQ.",
        "next-buffer": b"\x80\x05\x97.",
        "bytes-8": b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"x.",
        "huge-memo": b"\x80\x02]r\xff\xff\xff\x7f.",
        "deep": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
        "laughs": b"\x80\x02" + laughs,
        "long-4": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 64 + b".",
    }


class Text:
    """LightGBM's model text, parsed, to be written with one error and everything else right."""

    def __init__(self, text):
        head, self.rest = text.split("\n\n", 1)
        self.head = dict(line.partition("=")[::2] for line in head.split("\n")[1:])
        self.trees, at = [], 0
        for size in map(int, self.head["tree_sizes"].split(" ")):
            lines = self.rest[at : at + size][:-3].split("\n")
            self.trees.append([line.partition("=")[::2] for line in lines])
            at += size
        self.tail = self.rest[at:]

    def put(self, tree, key, value):
        """Set a line of a tree; a function is given its numbers."""
        for i, (name, old) in enumerate(self.trees[tree]):
            if name == key:
                if callable(value):
                    numbers = old.split(" ")
                    value(numbers)
                    self.trees[tree][i] = (name, " ".join(numbers))
                else:
                    self.trees[tree][i] = (name, value)

    def join(self, *, sizes=None):
        """Return the text, with correct `tree_sizes` unless others are given."""
        blocks = ["\n".join("=".join(line) for line in tree) + "\n\n\n" for tree in self.trees]
        self.head["tree_sizes"] = " ".join(str(len(block)) for block in blocks) if sizes is None else sizes
        head = "tree\n" + "\n".join(f"{key}={value}" for key, value in self.head.items())
        return f"{head}\n\n{''.join(blocks)}{self.tail}"


def _item(index, value):
    def change(numbers):
        numbers[index % len(numbers)] = value

    return change


TREE_LIES = {
    "child beyond": ("left_child", lambda r: _item(r, "99")),
    "child far beyond": ("right_child", lambda r: _item(r, "2147483647")),
    "child overflow": ("left_child", lambda r: _item(r, "4294967297")),
    "leaf beyond": ("right_child", lambda r: _item(r, "-999")),
    "root again": ("left_child", lambda r: _item(r, "0")),
    "leaf twice": ("left_child", lambda _: lambda n: n.__setitem__(slice(None), ["-1"] * len(n))),
    "feature beyond": ("split_feature", lambda r: _item(r, "5000")),
    "feature negative": ("split_feature", lambda r: _item(r, "-1")),
    "feature huge": ("split_feature", lambda r: _item(r, "2147483647")),
    "leaves huge": ("num_leaves", lambda _: "2147483647"),
    "leaves none": ("num_leaves", lambda _: "0"),
    "leaves negative": ("num_leaves", lambda _: "-5"),
    "leaves many": ("num_leaves", lambda _: "200000"),
    "categories": ("num_cat", lambda _: "1"),
    "linear": ("is_linear", lambda _: "1"),
    "categorical split": ("decision_type", lambda r: _item(r, "1")),
    "decision 255": ("decision_type", lambda r: _item(r, "255")),
    "leaf nan": ("leaf_value", lambda r: _item(r, "nan")),
    "leaf inf": ("leaf_value", lambda r: _item(r, "inf")),
    "leaf word": ("leaf_value", lambda r: _item(r, "0x41")),
    "threshold 1e999": ("threshold", lambda r: _item(r, "1e999")),
    "threshold empty": ("threshold", lambda _: ""),
    "a value less": ("leaf_value", lambda _: lambda n: n.pop()),
    "a value more": ("leaf_value", lambda _: lambda n: n.append("0.5")),
    "two blanks": ("internal_value", lambda r: _item(r, "")),
    "count negative": ("leaf_count", lambda r: _item(r, "-1")),
    "count huge": ("internal_count", lambda r: _item(r, "9999999999")),
    "weight nan": ("internal_weight", lambda r: _item(r, "nan")),
    "gain nan": ("split_gain", lambda r: _item(r, "-nan")),
    "shrinkage nan": ("shrinkage", lambda _: "nan"),
}
HEAD_LIES = {
    "classes": ("num_class", "1000000"),
    "no trees an iteration": ("num_tree_per_iteration", "0"),
    "no feature": ("max_feature_idx", "-1"),
    "features huge": ("max_feature_idx", "2147483647"),
    "ranking": ("objective", "lambdarank"),
    "no objective": ("objective", ""),
    "other sigmoid": ("objective", "binary sigmoid:-1"),
    "version": ("version", "v9"),
    "label": ("label_index", "5"),
    "one name": ("feature_names", "a"),
    "a path for a name": ("feature_names", "../../etc/passwd"),
    "ranges": ("feature_infos", "[0:1e999]"),
}
SIZES = {"sizes huge": "2147483647", "sizes negative": "-1", "sizes none": "", "sizes zero": "0", "sizes word": "1;2"}
TAILS = {
    "no tail": lambda _: "",
    "pandas": lambda t: t.replace("pandas_categorical:null", 'pandas_categorical:[["a"]]'),
    "a NUL": lambda t: t.replace("end of parameters", "[x: \0]\nend of parameters"),
    "more": lambda t: t + "tree\n",
    "a path": lambda t: t.replace("\nend of parameters", "[input_model: ../../x]\n\nend of parameters"),
}


def texts(model_text, rng, count):
    """Yield model texts with one error each, every kind at least once, at random places."""
    kinds = [*TREE_LIES, *HEAD_LIES, *SIZES, *TAILS, "line twice", "line missing", "line more", "empty", "cut"]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        text, at = Text(model_text), rng.randrange(1 << 20)
        tree = rng.randrange(len(text.trees))
        if kind in TREE_LIES:
            key, lie = TREE_LIES[kind]
            text.put(tree, key, lie(at))
        elif kind in HEAD_LIES:
            key, value = HEAD_LIES[kind]
            text.head[key] = value
        elif kind in TAILS:
            text.tail = TAILS[kind](text.tail)
        elif kind == "line twice":
            text.trees[tree].insert(3, text.trees[tree][3])
        elif kind == "line missing":
            text.trees[tree].pop(1 + at % 15)
        elif kind == "line more":
            text.trees[tree].insert(3, ("cat_threshold", "1 2 3"))
        made = text.join(sizes=SIZES.get(kind))
        if kind == "empty":
            made = ""
        elif kind == "cut":
            made = made[: at % len(made)]
        yield kind, made


def with_text(model, text):
    """Return an `lgbm.pkl` in canonical form with another model text and a matching hash."""
    from mltrain.artifact.plain_pickle import write_plain

    data = pickle.loads(model)
    data["model_text"] = text
    data["hashes"]["model_text"] = hashlib.sha256(text.encode()).hexdigest()
    return write_plain(data)


YAML = {
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
    "tag": "seed: !!python/object/apply:os.system ['touch {canary}']\n",
    "tag-new": "seed: !!python/object/new:os.system [touch {canary}]\n",
    "twice": "seed: 1\nseed: 2\n",
    "nan": "val_ratio: .nan\n",
    "no": "calibration: no\n",
    "date": "seed: 2025-10-15\n",
    "brackets": "seed: " + "[" * 3000 + "]" * 3000 + "\n",
    "merge": "x: &x {a: 1}\nsearch:\n  <<: *x\n",
    "unknown": "loader_module: evil\n",
}
JSON = {
    "nan": lambda t: t.replace('"accuracy": ', '"accuracy": NaN, "was": ', 1),
    "infinity": lambda t: t.replace('"accuracy": ', '"accuracy": -Infinity, "was": ', 1),
    "1e999": lambda t: t.replace('"accuracy": ', '"accuracy": 1e999, "was": ', 1),
    "twice": lambda t: t.replace("{", '{"version": "1", ', 1),
    "deep": lambda t: t.replace("{", '{"deep": ' + "[" * 100_000 + "]" * 100_000 + ", ", 1),
    "digits": lambda t: t.replace("{", '{"digits": ' + "9" * 5000 + ", ", 1),
    "surrogate": lambda t: t.replace("{", '{"text": "\\ud800", ', 1),
    "bom": lambda t: "\ufeff" + t,
}
TRAVERSALS = (
    ("rollback", "../../x"), ("rollback", "/etc"), ("rollback", "2025-10-15/../../x"), ("rollback", "..\\..\\x"),
    ("rollback", "%2e%2e"), ("rollback", "--", "-rf"), ("promote", "a" * 10_000), ("promote", "../../../etc/passwd"),
    ("promote", "٢025-10-15"), ("predict", "../x"), ("predict", "best_lgbm/../../.."),
    ("verify", "model", "/etc/passwd"),
    ("verify", "snapshot", "../.."), ("verify", "snapshot", "2025-10-15T12-00-00Z/.."), ("card", "show", "/dev/zero"),
    ("bench", "./.."), ("train", "--snapshot", "../../x"), ("snapshot", "--source", "sim", "--symbols", "../../X"),
    ("snapshot", "--source", "sim", "--symbols", "BTC/../USDT"),
    ("snapshot", "--source", "sim", "--symbols", "btc usdt"),
)  # fmt: skip
READERS = (("predict",), ("bench", "--samples", "10"), ("verify", "model"))


def artefacts(plan):
    """Pass every hostile file to every command that reads it."""
    tally = kit.Tally("hostile")
    canary = plan.work / "canary"
    folder = plan.copy()
    name = kit.best(folder)
    version = folder / "models" / name
    model, card = (version / "lgbm.pkl").read_bytes(), (version / "model_card.json").read_text()

    def check(label, calls, codes=(3,), *, where=folder):
        """Make the calls, count the case, and restore the version."""
        tally.cases += 1
        for words in calls:
            problem = kit.unclean(kit.warm(*words, data_dir=where), codes)
            if problem or canary.exists():
                tally.fail(label, f"mltrain {' '.join(w[:60] for w in words)}: {problem or 'THE CANARY IS THERE'}")
                break

    def restore():
        shutil.rmtree(version, ignore_errors=True)
        if version.is_symlink():
            version.unlink()
        shutil.copytree(plan.base / "models" / name, version)

    step = 9 if plan.quick else 1
    for label, stream in list(pickles(canary).items())[::step]:
        (version / "lgbm.pkl").write_bytes(stream)
        reseal(version)
        check(f"pickle {label}", READERS)
        restore()
    for number, (label, text) in enumerate(
        texts(pickle.loads(model)["model_text"], plan.rng("texts"), 6 if plan.quick else 114)
    ):
        (version / "lgbm.pkl").write_bytes(with_text(model, text))
        reseal(version)
        check(f"model text {label}", [READERS[number % 3]])
        restore()
    for label, text in list(YAML.items())[::step]:
        path = plan.work / "bad.yml"
        path.write_text(text.replace("{canary}", str(canary)))
        check(f"yaml {label}", [(*kit.TRAIN[:3], option, path) for option in ("--config", "--features")])
    for label, change in list(JSON.items())[::step]:
        changed = change(card)
        assert changed != card
        (version / "model_card.json").write_text(changed, "utf-8")
        reseal(version, card_too=False)
        check(f"json {label}", [("card", "validate"), ("card", "show"), ("predict",), ("verify", "model")])
        restore()
        manifest = version / "manifest.json"
        manifest.write_text(change(manifest.read_text().replace('"verdict": ', '"accuracy": 1, "verdict": ')), "utf-8")
        check(f"json {label} in a manifest", [("predict",), ("verify", "model"), ("rollback", name)])
        restore()
    before = kit.tree(folder)
    for words in TRAVERSALS[::step]:
        check(f"traversal {' '.join(words)[:40]!r}", [words], (2, 3))
    if kit.tree(folder) != before:
        tally.fail("traversals", "something was made or changed")
    for label in ("../../canary", "/etc/passwd", "a/b", "..\\x", "lgbm.pkl", "MANIFEST.JSON", "", "x" * 300)[::step]:
        document = json.loads((version / "manifest.json").read_bytes())
        document["files"].append({"path": label, "sha256": "0" * 64, "bytes": 0})
        write_sealed(version / "manifest.json", document)
        check(f"listed {label[:20]!r}", READERS)
        restore()
    specials(plan, folder, version, check, restore, step)
    bombs(plan, folder, check)
    return tally


def specials(plan, folder, version, check, restore, step):
    """Put other things than regular files where one is expected."""
    secret = plan.work / "secret"
    secret.write_text(SECRET)
    models, model, manifest = folder / "models", version / "lgbm.pkl", version / "manifest.json"

    def link(path, target):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target)

    def fifo(path):
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    def bind(path):
        path.unlink()
        _bind(path)

    def sparse(path):
        path.unlink()
        with path.open("wb") as file:
            file.truncate(10 << 30)

    history = [("models", "history"), ("rollback", "--previous"), ("promote", version.name)]
    cases = {
        "a link for the model": (lambda: link(model, secret), READERS),
        "a FIFO for the model": (lambda: fifo(model), READERS),
        "a device for the model": (lambda: link(model, "/dev/zero"), READERS),
        "a socket for the model": (lambda: bind(model), READERS),
        "a folder for the model": (lambda: (model.unlink(), model.mkdir()), READERS),
        "a link for the manifest": (lambda: link(manifest, secret), READERS),
        "a FIFO for the manifest": (lambda: fifo(manifest), READERS),
        "10 GB for the model": (lambda: sparse(model), READERS),
        "10 GB for the card": (lambda: sparse(version / "model_card.json"), [*READERS, ("card", "show")]),
        "a link for the version": (lambda: link(version, plan.base / "models" / version.name), READERS),
        "a FIFO for the log": (lambda: fifo(models / "promotions.jsonl"), history),
        "a link for the log": (lambda: link(models / "promotions.jsonl", secret), history),
        "a link for the looks": (lambda: link(models / "looks.jsonl", secret), [kit.TRAIN]),
        "a link for the lock": (lambda: link(models / ".lock", secret), [("rollback", "--previous")]),
        "a FIFO for the lock": (lambda: fifo(models / ".lock"), [("rollback", "--previous")]),
        "the pointer out of the tree": (lambda: link(models / "best_lgbm", "../../secret"), READERS),
        "the pointer absolute": (lambda: link(models / "best_lgbm", str(version)), READERS),
        "the pointer in a circle": (lambda: link(models / "best_lgbm", "best_lgbm"), READERS),
        "a FIFO for the pointer": (lambda: fifo(models / "best_lgbm"), READERS),
    }
    for label, (make, calls) in list(cases.items())[::step]:
        make()
        check(label, calls)
        shutil.rmtree(folder)
        shutil.copytree(plan.base, folder, symlinks=True)
        if secret.read_text() != SECRET:
            raise AssertionError(f"{label}: a file outside was written")
    restore()


def places(plan):
    """Put other things in the place of regular files: no command hangs, crashes or follows a link.

    A link on the command line belongs to the user, so its target may be read, and is then refused for its content. In
    the data folder no link is followed.
    """
    tally = kit.Tally("places")
    strange = plan.work / "strange"
    strange.mkdir()
    (strange / "secret").write_text(SECRET)
    os.mkfifo(strange / "pipe")
    found = list(_places(plan))
    kinds = list(_KINDS.items())

    def attempt(case):
        label, path, calls = found[case // len(kinds)]
        kind, make = kinds[case % len(kinds)]
        for words in calls:
            folder = plan.copy()
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            make(path, strange)
            made = os.lstat(path).st_mode
            ended = kit.warm(*words, data_dir=folder)
            problem = kit.unclean(ended, (0, 2, 3, 8))
            own = not path.is_relative_to(folder)
            if not problem and label in _MUST_REFUSE and ended.code == 0:
                problem = "accepted"
            if not problem and own and stat.S_IFMT(os.lstat(path).st_mode) != stat.S_IFMT(made):
                problem = "replaced"
            if not problem and not own and SECRET in ended.out + ended.err:
                problem = "printed the secret"
            if (strange / "secret").read_text() != SECRET:
                problem = "wrote outside"
            (shutil.rmtree if path.is_dir() and not path.is_symlink() else os.unlink)(path) if own else None
            if problem:
                return f"{kind} for {label}, mltrain {' '.join(map(str, words))[:100]}: {problem}"
        return None

    numbers = list(plan.cases(len(found) * len(kinds), 0))
    if plan.quick:
        numbers = plan.rng("places").sample(range(len(found) * len(kinds)), 4)
    tally.add(kit.run_in_forks(attempt, numbers, forks=1))
    return tally


def _bind(path):
    here = Path.cwd()
    # A socket's path is short.
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


_KINDS = {
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a folder": lambda path, _: path.mkdir(),
    "a socket": lambda path, _: _bind(path),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "a link to a FIFO": lambda path, strange: path.symlink_to(strange / "pipe"),
    "a link to a file outside": lambda path, strange: path.symlink_to(strange / "secret"),
    "a link to nothing": lambda path, _: path.symlink_to("nowhere"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
}
#: Where the command cannot do its work without what is missing now; elsewhere it may heal, or need not look.
_MUST_REFUSE = {
    *("config", "features", "key", "public key", "input", "frame", "candles", "folder of candles", "card", "model"),
    *("lgbm.pkl", "manifest.json", "model_card.json", "features.yml", "trials.parquet", "holdout.parquet"),
    *("more", "version", "pointer", "snapshot"),
}


def _places(plan):
    """Yield every place: its name, its path, and the commands that reach it."""
    data, own = plan.work / "data", plan.work / "own"
    models, name = data / "models", kit.best(plan.base)
    other = next(n for n in kit.versions(plan.base) if n != name)
    (snapshot,) = (p.name for p in (plan.base / "snapshots").iterdir() if p.is_dir() and not p.is_symlink())
    shot = data / "snapshots" / snapshot
    study = next((plan.base / "studies").glob("*-42.journal")).stem
    train, sign = (*kit.TRAIN, "--no-promote"), (*kit.TRAIN, "--no-promote", "--sign", own / "key")
    files = ("snapshot", "--source", "files", "--symbols", "BTCUSDT", "--days", "1", "--from")
    require = ("--require-signature", own / "key.pub")
    readers = (*READERS, ("rollback", name), ("promote", name), ("card", "show"))
    yield "config", own / "c.yml", [(*kit.TRAIN[:3], "--config", own / "c.yml")]
    yield "features", own / "f.yml", [(*kit.TRAIN, "--features", own / "f.yml"),
                                      ("features", "info", "--features", own / "f.yml")]  # fmt: skip
    yield "key", own / "key", [sign]
    yield "public key", own / "key.pub", [(*words, *require) for words in (("predict",), ("verify", "model"))]
    yield "input", own / "i.csv", [("predict", "--input", own / "i.csv")]
    yield "input", own / "i.parquet", [("predict", "--input", own / "i.parquet")]
    yield "frame", own / "x.csv", [("features", "check", own / "x.csv")]
    yield "candles", own / "in" / "BTCUSDT.csv", [(*files, own / "in")]
    yield "candles", own / "in" / "BTCUSDT.parquet", [(*files, own / "in")]
    yield "folder of candles", own / "from", [(*files, own / "from")]
    yield "card", own / "card.json", [("card", "validate", own / "card.json")]
    yield "model", own / "lgbm.pkl", [("verify", "model", own / "lgbm.pkl"), ("predict", own / "lgbm.pkl")]
    for file in ("lgbm.pkl", "manifest.json", "model_card.json"):
        yield file, models / name / file, readers[:4] if file == "lgbm.pkl" else readers
    for file in ("features.yml", "trials.parquet", "holdout.parquet", "signature.json", "more"):
        yield file, models / name / file, readers[2:4]
    yield "version", models / name, readers
    yield "pointer", models / "best_lgbm", [*readers[:4], ("predict", models / "best_lgbm.pkl")]
    yield "link", models / "best_lgbm.pkl", [("rollback", "--previous"), ("promote", other)]
    yield "log", models / "promotions.jsonl", [("models", "history"), ("rollback", "--previous"), ("models",)]
    yield "looks", models / "looks.jsonl", [train]
    yield "lock", models / ".lock", [("rollback", "--previous"), ("models", "prune", "--keep", "0")]
    yield "models", models, [("models",), ("predict",), train]
    yield "journal", data / "studies" / f"{study}.journal", [train, (*train, "--resume")]
    yield "study's lock", data / "studies" / f"{study}.lock", [train]
    yield "studies", data / "studies", [train]
    yield "snapshot", shot / "BTCUSDT.parquet", [("verify", "snapshot"), train]
    yield "snapshot", shot / "manifest.json", [("verify", "snapshot"), train]
    yield "snapshot", shot, [("verify", "snapshot"), train]
    yield "snapshots", data / "snapshots", [("snapshots",), kit.SNAPSHOT]
    yield "latest", data / "snapshots" / "latest", [("snapshots",), ("verify", "snapshot"), kit.SNAPSHOT]
    yield "snapshots' lock", data / "snapshots" / ".lock", [(*kit.SNAPSHOT[:-1], "5")]


def bombs(plan, folder, check):
    """Put Parquet files that are small on disk and large in memory into a snapshot, with matching hashes."""
    (snapshot,) = (p for p in (folder / "snapshots").iterdir() if p.is_dir() and not p.is_symlink())
    file = snapshot / "BTCUSDT.parquet"
    data, manifest = file.read_bytes(), (snapshot / "manifest.json").read_bytes()
    for label in list(bomb.BOMBS)[-1:] if plan.quick else bomb.BOMBS:
        subprocess.run([sys.executable, bomb.__file__, label, file], check=True)
        document = json.loads(manifest)
        document["files"][0] |= _entry(file) | {"rows": bomb.BOMBS[label]}
        write_sealed(snapshot / "manifest.json", document)
        check(f"parquet bomb: {label}", [("verify", "snapshot"), kit.TRAIN])
        file.write_bytes(data)
        (snapshot / "manifest.json").write_bytes(manifest)
