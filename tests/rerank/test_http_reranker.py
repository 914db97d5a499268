"""The four request shapes against a server that speaks each and refuses everything else."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vstore.errors import InvalidInput, InvalidSetting, RerankError
from vstore.rerank import HTTPReranker, Rerank, apply, as_stages
from vstore.testing.reranker_suite import RerankerSuite
from vstore.types import Candidate, Hit

KEY = "sk-very-secret"
FIELDS = {
    "/v2/rerank": {"query", "documents", "top_n", "model"},
    "/v1/rerank": {"query", "documents", "top_n", "model", "return_documents"},
    "/rerank": {"query", "texts", "raw_scores", "truncate"},
}


def relevance(query: str, document: Any) -> float:
    """What the server answers: letters in common."""
    text = document if isinstance(document, str) else document.get("text") or "image" + document["image"][:8]
    return len(set(query) & set(text)) / 26


class Server(http.server.BaseHTTPRequestHandler):
    """Speaks all shapes; `failures` are answered first, each once."""

    failures: list[Any] = []  # noqa: RUF012
    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Server.seen.append({"path": self.path, "body": body, "key": self.headers.get("Authorization")})
        if Server.failures:
            failure = Server.failures.pop(0)
            if failure == "hang up":
                self.connection.close()
                return
            if failure == "trickle":
                self._trickle()
                return
            if isinstance(failure, threading.Event):
                failure.wait(20)
            else:
                self._answer(*failure)
                return
        unknown = set(body) - FIELDS.get(self.path, set())
        if self.path not in FIELDS or unknown:
            self._answer(422, {"error": f"unknown: {sorted(unknown)}"})
        elif self.path == "/rerank":
            scores = [relevance(body["query"], text) for text in body["texts"]]
            found = [{"index": i, "score": score} for i, score in enumerate(scores)]
            self._answer(200, sorted(found, key=lambda each: -each["score"]))
        else:
            scores = [relevance(body["query"], each) for each in body["documents"]]
            results = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
            results.sort(key=lambda each: -each["relevance_score"])
            self._answer(200, {"id": "x", "results": results[: body["top_n"]]})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _trickle(self) -> None:
        """Send pieces, each in good time, until the other side has enough."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(b" ")
                threading.Event().wait(0.02)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    Server.failures.clear()
    Server.seen.clear()
    monkeypatch.setenv("RERANK_KEY", KEY)


def documents(n: int = 3) -> list[Candidate]:
    return [Candidate(i, "abcdefghij"[: i + 1], None, {"title": "z"}) for i in range(n)]


class TestHttp(RerankerSuite):
    @pytest.fixture(params=["cohere", "jina", "vllm", "tei"])
    def reranker(self, request: Any, url: str) -> HTTPReranker:
        return HTTPReranker(url, shape=request.param, model="m", max_documents=7)


@pytest.mark.parametrize(
    ("shape", "path", "wanted"),
    [
        ("cohere", "/v2/rerank", {"query": "abc", "documents": ["a", "ab"], "top_n": 2, "model": "m"}),
        (
            "jina",
            "/v1/rerank",
            {
                "query": "abc",
                "documents": [{"text": "a"}, {"text": "ab"}],
                "top_n": 2,
                "model": "m",
                "return_documents": False,
            },
        ),
        ("vllm", "/v1/rerank", {"query": "abc", "documents": ["a", "ab"], "top_n": 2, "model": "m"}),
        ("tei", "/rerank", {"query": "abc", "texts": ["a", "ab"], "raw_scores": True, "truncate": True}),
    ],
)
def test_each_shape_is_what_its_service_takes(
    shape: Any, path: str, wanted: dict[str, Any], url: str
) -> None:
    model = HTTPReranker(url, shape=shape, model="m", api_key_env="RERANK_KEY")
    np.testing.assert_allclose(model.score("abc", documents(2)), [1 / 26, 2 / 26], rtol=1e-6)
    assert Server.seen == [{"path": path, "body": wanted, "key": f"Bearer {KEY}"}]
    assert KEY not in repr(model) + model.name


def test_paths_fields_and_parts(url: str) -> None:
    model = HTTPReranker(f"{url}/rerank", shape="tei", fields=["title"], max_documents=2)
    _, (report,) = apply(
        as_stages(model),
        "abc",
        [Hit(i, 1.0, 0.0, {"title": "z"}, {"text": "a"}, 1.0, i) for i in range(5)],
        5,
    )
    assert [len(each["body"]["texts"]) for each in Server.seen] == [2, 2, 1]
    assert Server.seen[0]["body"]["texts"][0] == "z\na"
    assert (report.n_batches, report.n_pairs) == (3, 5)


def test_jina_gets_images_as_base64_and_urls_as_they_are(url: str) -> None:
    image = b"\x89PNG anything"
    given = [
        Candidate(0, None, image, {}),
        Candidate(1, "text", "https://example.org/a.png", {}),
        Candidate(2, None, "missing.png", {}),
    ]
    got = HTTPReranker(url, shape="jina", model="m").score("abc", given)
    assert Server.seen[0]["body"]["documents"] == [
        {"image": base64.b64encode(image).decode()},
        {"image": "https://example.org/a.png"},
    ]
    assert np.isnan(got).tolist() == [False, False, True]


def test_what_may_pass_is_tried_again(url: str) -> None:
    waits: list[float] = []
    Server.failures += [(429, {"error": "slow down"}, {"Retry-After": "3"}), (503, b"busy"), "hang up"]
    model = HTTPReranker(url, n_retries=3, sleep=waits.append)
    assert np.isfinite(model.score("abc", documents())).all()
    assert len(Server.seen) == 4
    assert waits == [3.0, 0.5, 1.0]
    Server.failures += [(500, b"x")] * 3
    with pytest.raises(RerankError, match="after 2 attempts: HTTP 500"):
        HTTPReranker(url, n_retries=1, sleep=waits.append).score("abc", documents())
    Server.failures.clear()


def test_a_refusal_is_not_repeated_and_shows_no_key(url: str) -> None:
    Server.failures.append((401, {"error": f"key {KEY} is not valid"}))
    with pytest.raises(RerankError, match=r"HTTP 401.*key \*\*\* is not valid") as info:
        HTTPReranker(url, api_key_env="RERANK_KEY", sleep=lambda s: None).score("abc", documents())
    assert KEY not in str(info.value)
    assert len(Server.seen) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "no JSON"),
        ([], "without a list of results"),
        ({"results": [{"index": 7, "relevance_score": 1}]}, "index 7 for 3"),
        ({"results": [{"index": 0, "relevance_score": "high"}]}, "'high'"),
        ({"results": ["x"]}, "index None"),
    ],
)
def test_nonsense_is_an_error(answer: Any, message: str, url: str) -> None:
    Server.failures.append((200, answer))
    with pytest.raises(RerankError, match=message):
        HTTPReranker(url).score("abc", documents())


def test_what_the_service_leaves_out_keeps_its_place(url: str) -> None:
    Server.failures.append((200, {"results": [{"index": 2, "relevance_score": 0.5}]}))
    got = HTTPReranker(url).score("abc", documents())
    assert np.isnan(got).tolist() == [True, True, False]


def test_a_deadline_ends_the_request(url: str) -> None:
    let_go = threading.Event()
    Server.failures.append(let_go)
    hits = [Hit(i, 1.0, 0.0, {}, {"text": "a"}, 1.0, i) for i in range(3)]
    ranked, (report,) = apply(as_stages(Rerank(HTTPReranker(url), deadline_ms=80)), "abc", hits, 3)
    assert not let_go.is_set(), "it answered while the service still thought"
    let_go.set()
    assert ranked == hits
    assert report.deadline_passed


def test_an_answer_that_never_ends_is_given_up(url: str) -> None:
    Server.failures.append("trickle")
    with pytest.raises(RerankError, match="did not end in time"):
        HTTPReranker(url, timeout_s=0.3, n_retries=0).score("abc", documents())


def test_a_key_that_no_header_can_hold_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("secret\nkey", "secret\u20ac", "secret\0"):
        if "\0" not in key:  # No environment can hold that.
            monkeypatch.setenv("RERANK_KEY", key)
            with pytest.raises(InvalidSetting, match="'Authorization'") as info:
                HTTPReranker("http://x", api_key_env="RERANK_KEY")
            assert "secret" not in str(info.value)
        with pytest.raises(InvalidSetting, match="'X-Token'") as info:
            HTTPReranker("http://x", headers={"X-Token": key})
        assert "secret" not in str(info.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "ftp://x"}, r"http\(s\)"),
        ({"url": "nonsense"}, r"http\(s\)"),
        ({"url": "http://user:secret@host"}, "user or password"),
        ({"url": "http://x", "shape": "cohre"}, "did you mean 'cohere'"),
        ({"url": "http://x", "api_key_env": "NOT_SET_ANYWHERE"}, "no such variable"),
        ({"url": "http://x", "timeout_s": 0}, "timeout_s"),
        ({"url": "http://x", "n_retries": -1}, "n_retries"),
        ({"url": "http://x", "max_documents": 0}, "max_documents"),
    ],
)
def test_http_settings_have_limits(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message) as info:
        HTTPReranker(**arguments)
    assert "secret" not in str(info.value)


def test_a_query_needs_text(url: str) -> None:
    with pytest.raises(InvalidInput, match="HTTPReranker reads text"):
        HTTPReranker(url).score(b"png", documents())
