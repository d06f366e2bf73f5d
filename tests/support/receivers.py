"""A receiver of events on the loopback interface, whose answers a test scripts."""

from __future__ import annotations

import hashlib
import hmac
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "0123456789abcdef" * 4


class TestReceiver:
    """What a receiver on this machine got.

    Attributes:
        url: Its address.
        answers: The statuses of the next answers; then 200. "hang": no answer until the end.
        posts: Headers and bodies of the posts, in order.
        hanging: Is set once a post hangs.
    """

    __test__ = False

    def __init__(self, url, answers):
        self.url = url
        self.answers = list(answers)
        self.posts = []
        self.arrived = threading.Semaphore(0)
        self.hanging = threading.Event()
        self.over = threading.Event()

    def is_signed(self, number=0, secret=SECRET):
        """Return whether a post has the signature that its receiver expects."""
        headers, body = self.posts[number]
        signed = hmac.new(secret.encode(), headers["X-Mltrain-Timestamp"].encode() + b"." + body, hashlib.sha256)
        return hmac.compare_digest(headers["X-Mltrain-Signature"], f"v1={signed.hexdigest()}")


@contextmanager
def receiving(*answers):
    """Yield a receiver that gives these answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = received.answers.pop(0) if received.answers else 200
            received.posts.append((self.headers, body))
            received.arrived.release()
            if answer == "hang":
                received.hanging.set()
                received.over.wait(60)
                return
            self.send_response(answer)
            if 300 <= answer < 400:
                self.send_header("Location", received.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received = TestReceiver(f"http://127.0.0.1:{server.server_port}/hook?team=ml", answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield received
    finally:
        received.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def write_secret(folder):
    """Write the secret to a file in a folder, and return its path."""
    path = folder / "secret"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path
