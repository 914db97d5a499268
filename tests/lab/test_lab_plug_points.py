"""Every shipped seed, planner, order, layout and store model passes the suite of its plug point."""

from __future__ import annotations

import pytest

from vstore.lab.layouts import LAYOUTS
from vstore.lab.orders import ORDERS
from vstore.lab.planners import BySelectivity, EngineRules
from vstore.lab.seeds import EntryPoint, FirstInClusters
from vstore.lab.stores import PRESETS
from vstore.testing.lab_suite import LayoutSuite, OrderSuite, PlannerSuite, SeedsSuite, StoreModelSuite


@pytest.mark.parametrize("seeds", [EntryPoint(), FirstInClusters()], ids=["entry", "clusters"])
class TestSeeds(SeedsSuite):
    pass


@pytest.mark.parametrize(
    "planner", [BySelectivity(), BySelectivity(100), EngineRules()], ids=["by rows", "few rows", "engine"]
)
class TestPlanners(PlannerSuite):
    pass


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
class TestOrders(OrderSuite):
    pass


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
class TestLayouts(LayoutSuite):
    pass


@pytest.mark.parametrize("model", PRESETS.values(), ids=PRESETS)
class TestStores(StoreModelSuite):
    pass
