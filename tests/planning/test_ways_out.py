from __future__ import annotations

from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest
from vram_planner.planning.ways_out import ways_out


def test_every_way_out_fits_when_tried() -> None:
    request = PlanRequest.of(model="32b", ctx=16_384, concurrency=8, gpu="2x RTX 4090")
    plan = estimate(request)
    ways = ways_out(request, plan)

    assert plan.fits is False
    assert ways
    assert all(way.plan.fits for way in ways)


def test_fewer_requests_are_offered_where_one_fits() -> None:
    request = PlanRequest.of(model="7b", ctx=8192, concurrency=64, gpu="RTX 4090")
    plan = estimate(request)

    assert plan.capacity is not None
    assert ways_out(request, plan)[0].flags == f"--concurrency {int(plan.capacity.max_concurrency)}"


def test_nothing_is_offered_where_nothing_helps() -> None:
    request = PlanRequest.of(model="671b", ctx=163_840, concurrency=64, gpu="RTX 3060 12GB", tp=1)

    assert ways_out(request, estimate(request)) == ()
