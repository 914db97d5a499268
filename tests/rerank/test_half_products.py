"""Products by quarters are the plain products, for any number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.rerank import products
from vstore.rerank.products import Product

torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_it_is_the_plain_product(m: int, k: int, n: int, halves: bool, turned: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, bias, before = (
        torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for shape in ((m, k), (n,), (m, n))
    )
    weights = torch.from_numpy(rng.standard_normal((n, k) if turned else (k, n), dtype=np.float32))
    weights = weights.T if turned else weights
    product = Product(torch, weights, bias, halves=halves)
    used: list[str] = []

    def space(name: str, n_rows: int, n_columns: int) -> Any:
        used.append(name)
        return torch.full((n_rows, n_columns), float("nan"))

    least = products.LEAST_ROWS
    products.LEAST_ROWS = 2
    try:
        out, added = torch.full((m, n), float("nan")), before.clone()
        product.of(rows, out, space)
        product.onto(rows, added, space)
    finally:
        products.LEAST_ROWS = least
    wanted = rows.double() @ weights.double() + bias.double()
    np.testing.assert_allclose(out, wanted, atol=2e-5)
    np.testing.assert_allclose(added, wanted + before, atol=2e-5)
    assert bool(used) == (halves and m >= 2 and k % 2 == 0 and n % 2 == 0)


def test_few_rows_are_multiplied_plainly() -> None:
    product = Product(torch, torch.ones(4, 4), torch.ones(4), halves=True)
    out = torch.zeros(products.LEAST_ROWS - 1, 4)
    # Whoever asks for space fails.
    product.of(torch.ones(len(out), 4), out, None)  # type: ignore[arg-type]
    assert out.unique().tolist() == [5.0]
