"""What comes from outside: a hub that is not there is noticed within seconds, whatever it does."""

import http.server
import socket
import threading
import time
import zipfile

import pytest

from lib.runs import fetch


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch):
    clear = fetch.hub_refusal.cache_clear
    clear()
    for name in (*fetch.OFFLINE, "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield
    clear()


def serve(status: int):
    """A hub on this machine that answers every question with ``status``; its address."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(("status", "refusal"), [(200, ""), (401, ""), (503, "answers 503")])
def test_a_hub_on_any_port_is_asked(monkeypatch, status, refusal):
    server, address = serve(status)
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert fetch.hub_refusal() == "" if not refusal else refusal in fetch.hub_refusal()
    server.shutdown()


def test_a_name_that_nobody_owns_is_noticed(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
    assert "does not answer" in fetch.hub_refusal()


def test_a_hub_that_accepts_and_says_nothing_is_noticed_within_seconds(monkeypatch):
    monkeypatch.setattr(fetch, "ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "does not answer" in fetch.hub_refusal()
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("switch", fetch.OFFLINE)
def test_the_offline_switches_are_obeyed(monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda *a, **k: pytest.fail("it asked"))
    assert "switched off" in fetch.hub_refusal()


def test_a_hub_that_refuses_a_data_set_is_one_sentence(monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise ValueError("no such thing\nand much more")

    monkeypatch.setattr(fetch, "hub_refusal", lambda: "")
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(fetch.Unavailable) as refusal:
        fetch.hub_rows("owner/name", "0" * 40, "train")
    assert str(refusal.value) == "the hub refused owner/name at 00000000: no such thing"


def test_a_member_of_a_wheel_is_read_only_if_it_is_the_one(tmp_path):
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/b.txt", "text")
    sha = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    assert fetch.wheel_member(wheel, "a/b.txt", 4, sha) == b"text"
    for member, size, digest, said in (
        ("a/c.txt", 4, sha, "some.whl holds no readable a/c.txt"),
        ("a/b.txt", 5, sha, "a/b.txt has 4 bytes, expected 5"),
        ("a/b.txt", 4, "0" * 64, f"a/b.txt has SHA-256 {sha}, expected 0000"),
    ):
        with pytest.raises(fetch.Refused, match=said):
            fetch.wheel_member(wheel, member, size, digest)
