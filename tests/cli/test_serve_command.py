"""Laws of `mltrain serve`: it prints its address, serves until a signal, and lets requests in progress end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

import mltrain as mt
from support.program import MLTRAIN, NEUTRAL, Run, call

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
BODY = b'{"candles": {}}'


@contextmanager
def serving(*words):
    """Yield a running `mltrain serve` on a free port."""
    arguments = [MLTRAIN, "serve", "--bind", "127.0.0.1:0", *map(str, words)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=NEUTRAL) as run:
        try:
            yield run
        finally:
            run.kill()


def accepts(url):
    """Return whether a service takes new connections."""
    try:
        httpx.get(f"{url}/healthz", trust_env=False)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_a_request_in_progress_end(number, code, trained_dir):
    """A body that is still arriving is read to its end and answered; then the exit code is the signal's."""
    with serving("--data-dir", trained_dir) as run:
        url = run.stdout.readline().strip()
        assert httpx.get(f"{url}/readyz", trust_env=False).json() == {"status": "ready", "reasons": []}
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as peer:
            peer.sendall(HEAD + BODY[:5])
            # This connection was accepted before the signal.
            httpx.get(f"{url}/healthz", trust_env=False)
            run.send_signal(number)
            while accepts(url):
                pass
            peer.sendall(BODY[5:])
            answer = b"".join(iter(lambda: peer.recv(4096), b""))
        out, err = run.communicate(timeout=30)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["rows"] == []
    assert (run.returncode, out, err) == (code, "", "")


def test_the_service_gives_the_document_of_its_command(trained_dir):
    """`--json` prints what `to_json()` of the function gives, but for the port."""
    with serving("--data-dir", trained_dir, "--json") as run:
        text = ""
        while not text.endswith("}\n"):
            text += run.stdout.readline()
    with mt.serve(bind="localhost:0", data_dir=trained_dir) as service:
        document = service.to_json()

    assert document["url"] == service.url
    assert {**Run(0, text, "").document, "url": service.url} == document


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--bind", "0.0.0.0:8000"], 2, "--token-file"),
        (["--bind", "8000"], 2, "127.0.0.1:8000"),
        (["--token-file", "none"], 3, "the token file"),
        (["--threads", "0"], 2, "--threads"),
        (["1999-01-01"], 3, "1999-01-01"),
    ],
)
def test_invalid_arguments_are_one_message(trained_dir, tmp_path, words, code, message):
    """A wrong option, file or version ends it before it serves."""
    done = call("serve", *words, data_dir=trained_dir, cwd=tmp_path)

    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_the_missing_extra_is_one_message(trained_dir):
    """Without the packages of the extra it ends with 8 and says how to install them."""
    script = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['mltrain', 'serve', '--data-dir', sys.argv[1]]\n"
        "import mltrain.cli; mltrain.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, trained_dir], capture_output=True, text=True, check=False, env=NEUTRAL
    )

    assert (done.returncode, done.stdout) == (8, "")
    assert "serve needs the package uvicorn" in done.stderr
    assert "mltrain-lgbm[serve]" in done.stderr
    assert "Traceback" not in done.stderr
