"""Events: their queue on the disk, and their delivery to a receiver on the loopback interface."""

from __future__ import annotations

import json
import socket
from contextlib import closing

import pytest
from jsonschema import validate

from mltrain.errors import InputError, UsageError
from mltrain.monitoring.event_delivery import Courier, deliver, describe_queue
from mltrain.monitoring.events import EVENTS, OVERDUE_DAYS, QueuedEvent, list_events, queue_event, read_event
from mltrain.monitoring.receiver import Receiver, open_receiver
from mltrain.times import DAY_MS
from support.json_documents import closed_schema
from support.receivers import SECRET, receiving, write_secret

NOW_MS = 1_760_529_600_250


def clock():
    return NOW_MS / 1000


@pytest.fixture
def folder(tmp_path):
    """Return the queue of a data folder with two events."""
    for number in range(2):
        queue_event(
            tmp_path, "test", f"test {number}", by="me@host", now_ms=NOW_MS + number, details={"number": number}
        )
    return tmp_path / EVENTS


def ids(folder):
    return [path.stem for path in list_events(folder)]


def test_an_accepted_event_leaves_the_queue(folder):
    """Each is posted once, oldest first, as the documented document, with a signature that its receiver can check."""
    queued = ids(folder)
    with receiving() as received:
        found = deliver(folder, Receiver(received.url, SECRET.encode()), clock=clock)
        assert deliver(folder, Receiver(received.url, SECRET.encode()), clock=clock).delivered == ()
        assert received.is_signed()
        assert not received.is_signed(secret="x" * 64)

    assert (list(found.delivered), found.waiting, found.problems) == (queued, (), ())
    assert ids(folder) == []
    documents = [json.loads(body) for _, body in received.posts]
    assert [document["id"] for document in documents] == [headers["X-Mltrain-Event"] for headers, _ in received.posts]
    assert [document["summary"] for document in documents] == ["test 0", "test 1"]
    for document in documents:
        validate(document, closed_schema("event/1"))


def test_a_broken_receiver_gets_the_event_again(folder):
    """After a 500 nothing more is tried at once; the next call posts the same id again."""
    with receiving(500) as received:
        receiver = Receiver(received.url, SECRET.encode())
        failed = deliver(folder, receiver, clock=clock)
        again = deliver(folder, receiver, clock=clock)

    assert [(each.attempts, each.error) for each in failed.waiting] == [(1, "HTTP 500"), (0, None)]
    assert len(failed.problems) == 1
    assert len(again.delivered) == 2
    assert len(received.posts) == 3
    assert received.posts[0][0]["X-Mltrain-Event"] == received.posts[1][0]["X-Mltrain-Event"]


@pytest.mark.parametrize(("status", "said"), [(400, "HTTP 400"), (401, "HTTP 401"), (302, "it redirects")])
def test_a_refused_event_does_not_stop_the_others(folder, status, said):
    """It stays in the queue; a redirect is not followed."""
    with receiving(status) as received:
        found = deliver(folder, Receiver(received.url, SECRET.encode()), clock=clock)

    assert len(found.delivered) == 1
    assert len(received.posts) == 2
    assert said in found.waiting[0].error


def test_a_receiver_that_hangs_is_left(folder):
    """The attempt ends at its limit, and the events wait."""
    with receiving("hang") as received:
        found = deliver(folder, Receiver(received.url, SECRET.encode()), clock=clock, attempt_s=0.2)

    assert found.delivered == ()
    assert found.waiting[0].error == "no answer within 0.2 s"
    assert found.waiting[1].attempts == 0


def test_a_closed_port_is_a_problem_and_no_error(folder):
    """The message names the host, without the rest of the address."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = deliver(folder, Receiver(f"http://127.0.0.1:{port}/hook?token=hidden", SECRET.encode()), clock=clock)

    assert found.waiting[0].error.startswith("cannot deliver: ")
    assert f"127.0.0.1:{port}" in found.problems[0]
    assert "hidden" not in str(found.problems)


def test_a_host_that_cannot_be_encoded_is_a_problem_and_no_error(folder):
    """Some names are refused only when the request is made."""
    found = deliver(folder, Receiver("https://xn--/hook", SECRET.encode()), clock=clock)

    assert found.delivered == ()
    assert found.waiting[0].error.startswith("cannot deliver: ")


def test_an_event_that_fails_for_days_is_kept_and_reported(folder):
    """A damaged one is reported, too, and does not stop the others."""
    with receiving(500) as received:
        receiver = Receiver(received.url, SECRET.encode())
        deliver(folder, receiver, clock=clock)
        late = describe_queue(folder, now_ms=NOW_MS + OVERDUE_DAYS * DAY_MS)
        list_events(folder)[0].write_bytes(b"{}")
        damaged = deliver(folder, receiver, clock=clock)

    assert [each.overdue for each in late.waiting] == [True, False]
    assert f"could not be delivered for {OVERDUE_DAYS} days" in late.problems[0]
    assert len(damaged.delivered) == 1
    assert str(list_events(folder)[0]) in damaged.problems[0]


def test_a_queued_event_is_read_back(folder):
    """The file holds the whole event; one under another name is refused."""
    path = list_events(folder)[0]
    queued = read_event(path)

    assert queued == QueuedEvent(queued.event)
    other = path.with_name(f"{'0' * 13}-{'0' * 16}.json")
    path.rename(other)
    with pytest.raises(InputError, match="holds the event"):
        read_event(other)


def test_the_secret_is_private(tmp_path):
    """Its file must not be readable by others, and neither message nor repr shows it or the address."""
    path = write_secret(tmp_path)
    receiver = open_receiver("https://alerts.example.com/hook/token", path)
    assert (receiver.secret, receiver.host) == (SECRET.encode(), "alerts.example.com")
    assert SECRET not in repr(receiver)
    assert "token" not in repr(receiver)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="has the mode 0644"):
        open_receiver("https://alerts.example.com/hook", path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(InputError, match="holds no secret"):
        open_receiver("https://alerts.example.com/hook", path)
    for url in ("http://alerts.example.com", "https://me:pass@alerts.example.com", "ftp://x", "https://a.b#c"):
        with pytest.raises(UsageError, match="given address") as caught:
            open_receiver(url, path)
        assert url not in caught.value.message


def test_a_courier_delivers_while_its_process_works(folder):
    """It says once what failed, waits before it tries again, and then delivers all."""
    times = [NOW_MS / 1000]
    with receiving(500, 500) as received:
        courier = Courier(folder, Receiver(received.url, SECRET.encode()), clock=lambda: times[0])
        assert courier.poll() == ()
        assert len(courier.finish()) == 1
        assert courier.poll() == courier.finish() == ()
        assert len(received.posts) == 1
        times[0] += 3
        courier.poll()
        assert courier.finish() == ()
        times[0] += 5
        courier.poll()
        assert courier.finish() == ()

    assert list_events(folder) == []
    assert len(received.posts) == 4
