"""Re-ranking by a service: the request shapes of Cohere v2, Jina, vLLM and text-embeddings-inference.

Only the standard library. The key comes from the environment, goes into one header, and nowhere else.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import numpy as np

from vstore.errors import InvalidSetting, RerankError, nearest
from vstore.rerank import work as recorder
from vstore.rerank.documents import document_text, query_text
from vstore.rerank.images import ImageLimits, ImageReader
from vstore.rerank.pairs import check_fields, encodable
from vstore.rerank.work import DeadlinePassed
from vstore.settings import Sleep, require, system_sleep
from vstore.types import Candidate, Float32s

Shape = Literal["cohere", "jina", "vllm", "tei"]
_PATHS: dict[Shape, str] = {
    "cohere": "/v2/rerank",
    "jina": "/v1/rerank",
    "vllm": "/v1/rerank",
    "tei": "/rerank",
}
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_MAX_ANSWER_BYTES = 64 << 20


@dataclass(slots=True, eq=False)
class _Failure(Exception):
    """One attempt's: `again` where another may do better, after `wait_s` if the service said so."""

    message: str
    again: bool
    wait_s: float | None = None


class HTTPReranker:
    """A `/rerank` endpoint as a re-ranker.

    Scores are the service's own: probabilities of Cohere, Jina and vLLM, raw scores of TEI. A document that
    the service leaves out of its answer scores NaN. Safe to call from several threads.

    Args:
        url: `https://host[:port][/path]`; without a path, the shape's own.
        shape: "cohere" (`documents` are texts), "jina" (texts, or images as base64), "vllm" (as Jina's older
            API, texts) or "tei" (`texts`, at most `max_documents` a request).
        model: the model's name, where the service serves several.
        api_key_env: the environment variable that has the key, sent as `Authorization: Bearer`.
        fields: attributes that are put before the document's text.
        timeout_s: of one attempt.
        n_retries: attempts after the first, of connections that fail and answers 408, 425, 429 and 5xx.
        max_documents: of one request; more are sent in several.
        headers: more of them; their values never appear in messages.
        images: what image references may be, for "jina".
        sleep: how it waits between attempts.

    Raises:
        InvalidSetting: a value outside its limits, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        shape: Shape = "cohere",
        model: str | None = None,
        api_key_env: str | None = None,
        fields: Sequence[str] = (),
        timeout_s: float = 30.0,
        n_retries: int = 2,
        max_documents: int | None = None,
        headers: Mapping[str, str] | None = None,
        images: ImageLimits | None = None,
        sleep: Sleep = system_sleep,
    ) -> None:
        if shape not in get_args(Shape):
            raise InvalidSetting(
                f"shape is {shape!r}{nearest(str(shape), get_args(Shape))}; "
                f"it must be one of {', '.join(_PATHS)}"
            )
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise InvalidSetting(f"url is {url!r}; it must be http(s)://host[:port][/path]")
        require(
            parts.username is None and parts.password is None,
            "url has a user or password in it, which would show in messages; use api_key_env or headers",
        )
        require(timeout_s > 0, f"timeout_s is {timeout_s!r}; it must be above 0")
        require(n_retries >= 0, f"n_retries is {n_retries!r}; it must be 0 or more")
        if max_documents is None:
            max_documents = 32 if shape == "tei" else 1000
        require(max_documents >= 1, f"max_documents is {max_documents!r}; it must be 1 or more")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path if parts.path not in ("", "/") else _PATHS[shape]) + (
            f"?{parts.query}" if parts.query else ""
        )
        self.shape: Shape = shape
        self.model = model
        self.name = f"{shape} {model or parts.hostname}"
        self.fields = check_fields(fields)
        self._timeout_s, self._n_retries, self._max_documents = timeout_s, n_retries, max_documents
        self._sleep = sleep
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})}
        if api_key_env is not None:
            key = os.environ.get(api_key_env, "").strip()
            require(bool(key), f"api_key_env is {api_key_env!r}, and the environment has no such variable")
            self._headers["Authorization"] = f"Bearer {key}"
        for name, value in self._headers.items():
            # http.client would refuse it too, with the value in its message.
            require(
                isinstance(value, str) and value.isascii() and value.isprintable(),
                f"the value of the header {name!r} holds what no header can; it must be printable ASCII",
            )
        self._reader: ImageReader | None = None
        self._image_limits = images

    def __repr__(self) -> str:
        return f"HTTPReranker({self._host!r}, shape={self.shape!r}, model={self.model!r})"

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], the service's scores; NaN for a document without text (or image, for Jina).

        Raises:
            InvalidInput: the query has no text.
            RerankError: the service refused, or did not answer after all attempts, or answered nonsense.
        """
        asked = encodable(query_text(query, "HTTPReranker"))
        work = recorder.current()
        scores = np.full(len(documents), np.nan, dtype=np.float32)
        rows, sent = [], []
        for row, document in enumerate(documents):
            try:
                content = self._content(document)
            except ValueError as error:
                work.failures[row] = str(error)
                continue
            if content is None:
                work.failures[row] = "has no text"
                continue
            rows.append(row)
            sent.append(content)
        for start in range(0, len(rows), self._max_documents):
            part = slice(start, start + self._max_documents)
            answer = self._post(self._body(asked, sent[part]), work)
            scores[rows[part]] = self._scores(answer, len(sent[part]))
            work.n_batches += 1
            work.n_pairs += len(sent[part])
        return scores

    def _content(self, document: Candidate) -> Any:
        text = document_text(document, self.fields)
        if self.shape != "jina" or document.image is None:
            text = None if text is None else encodable(text)
            return {"text": text} if self.shape == "jina" and text is not None else text
        if isinstance(document.image, str) and document.image.startswith(("https://", "http://")):
            # The service fetches it, if it wants to: nothing is read here.
            return {"image": document.image}
        if self._reader is None:
            self._reader = ImageReader(self._image_limits)
        return {"image": base64.b64encode(self._reader.read(document.image)).decode()}

    def _body(self, query: str, documents: list[Any]) -> dict[str, Any]:
        if self.shape == "tei":
            return {"query": query, "texts": documents, "raw_scores": True, "truncate": True}
        body: dict[str, Any] = {"query": query, "documents": documents, "top_n": len(documents)}
        if self.model is not None:
            body["model"] = self.model
        if self.shape == "jina":
            body["return_documents"] = False
        return body

    def _scores(self, answer: Any, n: int) -> Float32s:
        key = "score" if self.shape == "tei" else "relevance_score"
        results = (
            answer if self.shape == "tei" else answer.get("results") if isinstance(answer, dict) else None
        )
        scores = np.full(n, np.nan, dtype=np.float32)
        if not isinstance(results, list):
            raise RerankError(f"{self.name} answered without a list of results")
        for result in results:
            index = result.get("index") if isinstance(result, dict) else None
            value = result.get(key) if isinstance(result, dict) else None
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n:
                raise RerankError(f"{self.name} answered the index {index!r} for {n} documents")
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise RerankError(f"{self.name} answered {key} {value!r} for document {index}")
            scores[index] = value
        return scores

    def _post(self, body: dict[str, Any], work: recorder.Work) -> Any:
        data = json.dumps(body).encode()
        failure: _Failure | None = None
        for attempt in range(self._n_retries + 1):
            if failure is not None:
                wait_s = failure.wait_s if failure.wait_s is not None else 0.25 * 2 ** (attempt - 1)
                left_s = work.left_s()
                if left_s is not None and left_s <= wait_s:
                    raise DeadlinePassed
                self._sleep(wait_s)
            try:
                return self._attempt(data, work)
            except _Failure as error:
                failure = error
                if not error.again:
                    break
        assert failure is not None
        attempts = f" after {attempt + 1} attempts" if attempt else ""
        raise RerankError(f"{self.name} failed{attempts}: {failure.message}")

    def _attempt(self, data: bytes, work: recorder.Work) -> Any:
        # Only who calls a service pays for this import.
        import http.client

        left_s = work.left_s()
        if left_s == 0.0:
            raise DeadlinePassed
        timeout_s = self._timeout_s if left_s is None else min(self._timeout_s, left_s)
        kind: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        )
        connection = kind(self._host, self._port, timeout=timeout_s)
        ends_s = time.perf_counter() + timeout_s
        try:
            connection.request("POST", self._path, body=data, headers=self._headers)
            response = connection.getresponse()
            answer = self._body_of(response, ends_s)
        except (OSError, http.client.HTTPException) as error:
            if work.left_s() == 0.0:
                raise DeadlinePassed from error
            raise _Failure(f"{type(error).__name__}: {error}", again=True) from error
        finally:
            connection.close()
        if response.status != 200:
            shown = answer[:200].decode("utf-8", "replace")
            for secret in self._secrets():
                shown = shown.replace(secret, "***")
            wait = response.getheader("Retry-After", "")
            raise _Failure(
                f"HTTP {response.status}: {shown}",
                again=response.status in _RETRIED,
                wait_s=min(float(wait), 30.0) if wait.isdecimal() else None,
            )
        if len(answer) > _MAX_ANSWER_BYTES:
            raise _Failure(f"an answer of more than {_MAX_ANSWER_BYTES} bytes", again=False)
        try:
            return json.loads(answer)
        except ValueError as error:
            raise _Failure(f"the answer is no JSON: {error}", again=False) from error

    @staticmethod
    def _body_of(response: Any, ends_s: float) -> bytes:
        """Return what is read of an answer; the connection's own limit is for each piece of it."""
        answer = bytearray()
        while len(answer) <= _MAX_ANSWER_BYTES:
            piece = response.read1(1 << 16)
            if not piece:
                break
            answer += piece
            if time.perf_counter() > ends_s:
                raise TimeoutError("the answer did not end in time")
        return bytes(answer)

    def _secrets(self) -> list[str]:
        return [
            part
            for name, value in self._headers.items()
            if name not in ("Content-Type", "Accept")
            for part in (value, value.removeprefix("Bearer "))
            if part
        ]
