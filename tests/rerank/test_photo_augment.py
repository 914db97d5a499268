"""Versions of photos: each change alone, and all of them within the photo's size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vstore.errors import InvalidSetting
from vstore.rerank.images import view_of
from vstore.rerank.train import PhotoAugment

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")

NOTHING: dict[str, Any] = {"crop": 0, "mirror": False, "brightness": 0, "contrast": 0, "saturation": 0}


def photo(width: int = 40, height: int = 30) -> Any:
    random = np.random.default_rng(0)
    rough = Image.fromarray(random.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return rough.resize((width, height), Image.Resampling.BILINEAR)


def values(picture: Any) -> Any:
    return np.asarray(picture, dtype=np.float64)


def versions(n: int = 20, picture: Any = None, **changes: Any) -> list[Any]:
    augment = PhotoAugment(**{**NOTHING, **changes})
    return [augment(picture or photo(), np.random.default_rng(i)) for i in range(n)]


def test_nothing_asked_changes_nothing() -> None:
    for made in versions(3):
        np.testing.assert_allclose(values(made), values(photo()), atol=1)


def test_versions_follow_from_the_random_numbers_and_keep_the_size() -> None:
    augment = PhotoAugment(rotate=180, tint=0.2, erase=0.5)
    made = [augment(photo(), np.random.default_rng(i)) for i in (1, 1, 2)]
    assert all(each.size == (40, 30) for each in made)
    assert np.array_equal(values(made[0]), values(made[1]))
    assert not np.array_equal(values(made[0]), values(made[2]))


def test_a_mirrored_photo_is_the_photo_or_its_mirror() -> None:
    plain, other = values(photo()), values(photo())[:, ::-1]
    kinds = set()
    for made in versions(mirror=True):
        near = [float(np.abs(values(made) - each).max()) <= 1 for each in (plain, other)]
        assert sum(near) == 1
        kinds.add(near[0])
    assert kinds == {True, False}


def test_a_crop_is_a_part_enlarged() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (90, 1, 3)))
    for made in versions(picture=ramp, crop=0.5):
        line = values(made)[45, :, 0]
        # 2 a pixel, enlarged at most twice.
        assert 0.9 <= np.polyfit(np.arange(len(line)), line, 1)[0] <= 2.1
        assert (np.diff(line) >= 0).all()


def test_turned_a_quarter_the_middle_stays() -> None:
    for made in versions(5, picture=photo(33, 33), rotate=90):
        np.testing.assert_allclose(values(made)[16, 16], values(photo(33, 33))[16, 16], atol=3)


def test_a_tint_multiplies_each_colour_alike_everywhere() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    found = [values(made)[0, 0] for made in versions(picture=grey, tint=0.2)]
    assert all((each >= 79).all() and (each <= 121).all() for each in found)
    assert max(float(np.ptp(each)) for each in found) > 10
    assert all(np.ptp(values(made), axis=(0, 1)).max() == 0 for made in versions(picture=grey, tint=0.2))


def test_brightness_contrast_and_saturation() -> None:
    dark = [values(made) for made in versions(brightness=0.5)]
    factors = [each.mean() / values(photo()).mean() for each in dark]
    assert 0.45 <= min(factors) < 0.8 < max(factors) < 1.55
    grey = np.array([0.299, 0.587, 0.114])
    level = (values(photo()) @ grey).mean()
    for made in versions(contrast=0.3):
        assert (values(made) @ grey).mean() == pytest.approx(level, abs=6)
    for made in versions(saturation=0.3):
        np.testing.assert_allclose(values(made) @ grey, values(photo()) @ grey, atol=12)


def test_what_is_erased_has_the_mean_colour() -> None:
    made = versions(erase=0.5)
    changed = [(np.abs(values(each) - values(photo())) > 1).any(axis=2) for each in made]
    mean = values(photo()).mean(axis=(0, 1))
    touched = [i for i, where in enumerate(changed) if where.any()]
    assert 0 < len(touched) < len(made)
    for i in touched:
        assert changed[i].mean() <= 0.25
        np.testing.assert_allclose(values(made[i])[changed[i]].mean(axis=0), mean, atol=3)


@pytest.mark.parametrize("wrong", [{"crop": 1.0}, {"rotate": 181}, {"tint": -0.1}, {"erase": 1}])
def test_limits(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        PhotoAugment(**wrong)


def test_views_keep_the_size_and_come_in_mirrored_pairs() -> None:
    views = [view_of(photo(), number) for number in range(4)]
    assert {view.size for view in views} == {(40, 30)}
    assert np.array_equal(values(views[0]), values(photo()))
    assert np.array_equal(values(views[1]), values(views[0])[:, ::-1])
    assert np.array_equal(values(views[3]), values(views[2])[:, ::-1])
    np.testing.assert_allclose(values(views[2])[15, 20], values(photo())[15, 20], atol=12)
    assert not np.array_equal(values(views[2]), values(views[0]))
