"""The shipped re-rankers pass the suite that is shipped for everyone's, and broken ones do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import save_bert

from vstore.errors import RerankError
from vstore.rerank import CallableReranker, CrossEncoderReranker, LexicalReranker
from vstore.testing.reranker_suite import RerankerSuite


class TestLexical(RerankerSuite):
    pointwise = False
    relevant = ("how to open an archive and list the members in it", "sockets send bytes to other machines")

    @pytest.fixture
    def reranker(self):
        return LexicalReranker(fields=["title", "tags"])


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    pytest.importorskip("transformers", reason="needs the rerank extra: pip install 'vstore[rerank]'")
    folder = save_bert(tmp_path_factory.mktemp("bert"))
    return CrossEncoderReranker(folder, batch_tokens=600, batch_size=5)


class TestCrossEncoder(RerankerSuite):
    @pytest.fixture
    def reranker(self, cross_encoder):
        return cross_encoder


class TestCallable(RerankerSuite):
    @pytest.fixture
    def reranker(self):
        return CallableReranker(
            lambda query, documents: [len(d.text or "") for d in documents], name="longest"
        )


def drops_one(query: Any, documents: Any) -> Any:
    return [1.0] * (len(documents) - 1)


def knows_no_gaps(query: Any, documents: Any) -> Any:
    return [len(d.text) for d in documents]


def depends_on_place(query: Any, documents: Any) -> Any:
    return np.arange(len(documents)) + 0.0


def remembers(query: Any, documents: Any, calls: list[int] = []) -> Any:  # noqa: B006
    calls.append(1)
    return [float(len(calls))] * len(documents)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (drops_one, lambda s, r: s.test_one_score_for_each_document(r, 7)),
        (drops_one, lambda s, r: s.test_the_stage_takes_it(r)),
        (knows_no_gaps, lambda s, r: s.test_a_document_with_nothing_does_not_sink_the_others(r)),
        (depends_on_place, lambda s, r: s.test_batched_is_one_by_one(r)),
        (depends_on_place, lambda s, r: s.test_scores_come_in_the_order_given(r)),
        (depends_on_place, lambda s, r: s.test_equal_documents_have_equal_scores(r)),
        (remembers, lambda s, r: s.test_the_same_call_gives_the_same_scores(r)),
    ],
)
def test_the_suite_finds(broken: Callable[..., Any], test: Callable[[RerankerSuite, Any], None]) -> None:
    with pytest.raises((AssertionError, RerankError, TypeError)):
        test(RerankerSuite(), CallableReranker(broken))
