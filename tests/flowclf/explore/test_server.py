"""The server of the page: what it lets pass, and that nothing makes it stumble."""

import asyncio
import io
import json
import re
import socket
import threading
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from explored import explorer
from PIL import Image

from flowclf import UserError
from flowclf.explore.explorer import Explorer
from flowclf.explore.export import fetch_runtime
from flowclf.explore.page import page
from flowclf.explore.server import application, open_socket

TOKEN, PORT = "correct", 4321
HOST = f"127.0.0.1:{PORT}"
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def shown() -> Explorer:
    return explorer()


@pytest.fixture(scope="module")
def app(shown: Explorer) -> Any:
    return application([shown], TOKEN, PORT)


def ask(
    app: Any, method: str, path: str, body: bytes = b"", query: str = "", **headers: str
) -> Answer:
    """Speak ASGI to the application; `headers` go over those of an honest page."""
    honest = {"host": HOST, "x-flowclf-token": TOKEN, "content-type": "application/json"}
    merged = honest | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": query.encode("latin-1"), "http_version": "1.1", "scheme": "http",
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in merged.items() if v != "-"],
        "server": ("127.0.0.1", PORT), "client": ("127.0.0.1", 9), "root_path": "",
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    parts = [body[k : k + 65536] for k in range(0, len(body), 65536)] or [b""]

    async def receive() -> dict[str, Any]:
        part = parts.pop(0) if parts else b""
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        found.append(message)

    asyncio.run(app(scope, receive, send))
    told = {k.decode(): v.decode() for k, v in found[0]["headers"]}
    return found[0]["status"], told, b"".join(part.get("body", b"") for part in found[1:])


def question(app: Any, name: str, arguments: Any = None, **headers: str) -> tuple[int, Any]:
    status, _, body = ask(
        app, "POST", f"/call/0/{name}", json.dumps(arguments or {}).encode(), **headers
    )
    return status, json.loads(body)


def test_the_page_and_its_questions_pass(app: Any, shown: Explorer) -> None:
    status, headers, body = ask(app, "GET", "/", query=f"token={TOKEN}", x_flowclf_token="-")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert b"import" in body
    status, told = question(app, "judge", {"place": {"sample": 1}}, origin=f"http://{HOST}")
    assert status == 200
    assert told["posterior"] == shown.call("judge", {"place": {"sample": 1}})["posterior"]
    assert question(app, "facts", host=f"localhost:{PORT}")[0] == 200


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"x_flowclf_token": "-"}),
        (403, {"x_flowclf_token": "wrong"}),
        (403, {"x_flowclf_token": "cörrect"}),
        (403, {"origin": "http://evil.example"}),
        (403, {"origin": "null"}),
        (403, {"origin": f"https://{HOST}"}),
        (403, {"origin": "http://127.0.0.1:1"}),
        (421, {"host": "evil.example"}),
        (421, {"host": f"127.0.0.1.evil.example:{PORT}"}),
        (421, {"host": "127.0.0.1:1"}),
        (421, {"host": "-"}),
        (415, {"content_type": "text/plain"}),
        (415, {"content_type": "-"}),
    ],
)
def test_strangers_are_refused(app: Any, status: int, headers: dict[str, str]) -> None:
    found, told = question(app, "facts", **headers)
    assert found == status
    assert set(told) == {"error"}


def test_a_token_twice_is_none(app: Any) -> None:
    status, *_ = ask(app, "GET", "/", query=f"token={TOKEN}&token={TOKEN}", x_flowclf_token="-")
    assert status == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/etc/passwd", 404), ("GET", "/../explorer.py", 404), ("GET", "/%2e%2e/", 404),
        ("POST", "/call/0/../facts", 404), ("POST", "/call/1/facts", 404),
        ("POST", "/call/-1/facts", 404), ("POST", "/call/99999999999999999999/facts", 404),
        ("POST", "/call/0/__class__", 400), ("POST", "/call/0/prepare", 400),
        ("GET", "/call/0/facts", 405), ("POST", "/", 405), ("DELETE", "/", 405),
    ],
)  # fmt: skip
def test_no_path_reaches_anything_else(app: Any, method: str, path: str, status: int) -> None:
    assert ask(app, method, path, b"{}")[0] == status


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"nul", b"\xff", b"[" * 100_000, b'{"a":' * 20_000, b"1" * 10_000,
        b'{"place":{"sample":1e400}}', b'{"place":{"x":"\\ud800"}}',
        b'{"place":{"sample":9007199254740993}}', b'{"place":NaN}',
    ],
)  # fmt: skip
def test_malformed_questions_get_one_line(app: Any, body: bytes) -> None:
    status, _, answer = ask(app, "POST", "/call/0/judge", body)
    assert status == 400
    assert "\n" not in json.loads(answer)["error"]


def test_large_bodies_are_not_read_to_their_end(app: Any) -> None:
    assert ask(app, "POST", "/call/0/judge", b" " * (2**20 + 1))[0] == 413
    assert ask(app, "POST", "/picture/0", b" " * (2**23 + 1), content_type="image/png")[0] == 413


def png(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_a_picture_becomes_an_input_of_the_models_shape(app: Any, shown: Explorer) -> None:
    body = png(np.full((40, 60, 3), 255, np.uint8))
    status, _, answer = ask(app, "POST", "/picture/0", body, content_type="image/png")
    told = json.loads(answer)
    assert status == 200
    assert bool((shown.wire.unpack(told["x"]) == 16).all())
    assert "60" in told["notices"][0]


def test_pictures_that_are_none_or_bombs_are_refused(app: Any) -> None:
    bomb = png(np.zeros((1, 1), np.uint8))
    header = b"IHDR" + (30000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    bomb = bomb[:12] + header + zlib.crc32(header).to_bytes(4, "big") + bomb[33:]
    for body in (
        b"",
        b"GIF89a",
        b"<svg onload=alert(1)>",
        bomb,
        png(np.zeros((4, 4), np.uint8))[:-9],
    ):
        status, _, answer = ask(app, "POST", "/picture/0", body, content_type="image/png")
        assert status == 400, body[:20]
        assert "\n" not in json.loads(answer)["error"]
    assert ask(app, "POST", "/picture/0", b"x", content_type="image/svg+xml")[0] == 415


@pytest.fixture(scope="module")
def port(shown: Explorer) -> Iterator[int]:
    """Serve for real, in a thread."""
    with open_socket(0) as listening:
        yield from served(shown, listening)


def served(shown: Explorer, listening: socket.socket) -> Iterator[int]:
    number: int = listening.getsockname()[1]
    config = uvicorn.Config(
        application([shown], TOKEN, number), log_level="critical", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield number
    server.should_exit = True
    thread.join(10)


def test_a_thousand_malformed_requests_leave_it_answering(port: int) -> None:
    draw = np.random.default_rng(0)
    starts = (
        b"", b"POST /call/0/judge HTTP/1.1\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\0\0\0\0", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    )  # fmt: skip
    for k in range(1000):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(starts[k % len(starts)] + draw.bytes(int(draw.integers(0, 300))))
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/call/0/facts", b"{}",
                       {"Content-Type": "application/json", "X-Flowclf-Token": TOKEN})  # fmt: skip
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["classes"] == ["a", "<b>", "c"]
    connection.close()


def test_a_hundred_clients_at_once_get_their_own_answers(port: int, shown: Explorer) -> None:
    expected = [shown.call("judge", {"place": {"sample": k}})["posterior"] for k in range(20)]
    found: dict[int, Any] = {}

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Content-Type": "application/json", "X-Flowclf-Token": TOKEN}
        body = json.dumps({"place": {"sample": number % 20}})
        connection.request("POST", "/call/0/judge", body, headers)
        found[number] = json.loads(connection.getresponse().read())["posterior"]
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: expected[number % 20] for number in range(100)}


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with open_socket(0) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port_is_said(port: int) -> None:
    with pytest.raises(UserError, match=f"got --port {port}"):
        open_socket(port)


def test_what_the_page_is_told_cannot_leave_its_script() -> None:
    html = page({"runs": 1, "name": "</script><script>alert(1)</script>"})
    assert "<script>alert" not in html
    scripts = re.findall(r"<script type=\"[^\"]*\"[^>]*>(.*?)</script>", html, re.S)
    imports, told = json.loads(scripts[0])["imports"], json.loads(scripts[1])
    assert told["name"].startswith("</script>")
    assert {"main", "model", "view"} <= set(imports)
    used = {name for address in imports.values() for name in _imported(address)}
    assert used <= set(imports)


def _imported(address: str) -> list[str]:
    import base64

    script = base64.b64decode(address.partition(",")[2]).decode()
    return re.findall(r"from \"(\w+)\"", script)


def test_the_command_refuses_what_is_no_run(refused: Any, tmp_path: Path) -> None:
    assert "config.yaml" in refused("explore", tmp_path, "--no-browser")


def test_without_npm_the_runtime_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("flowclf.data.source.user_cache", lambda: tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(UserError, match="expected npm .*found none; name a folder .* with --ort"):
        fetch_runtime()
