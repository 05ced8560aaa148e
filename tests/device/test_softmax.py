"""Online softmax against float64: pieces, late rescaling, parts merged before and after division, masked scores."""

from __future__ import annotations

import device_units
import numpy as np
import pytest

ROWS, COUNT, CUT = 128, 96, 40


@pytest.mark.parametrize("where", device_units.EVERYWHERE)
def test_all_ways_give_the_softmax(where: str) -> None:
    rng = np.random.default_rng(4)
    # In log2: spread wide enough that pieces outgrow each other by more and by less than the slack of 8.
    scores = (rng.standard_normal((ROWS, COUNT)) * np.exp2(rng.integers(-2, 6, (ROWS, 1)))).astype(np.float32)
    scores[rng.random((ROWS, COUNT)) < 0.2] = -np.inf
    scores[1], scores[2, :CUT], scores[3, CUT:] = -np.inf, -np.inf, -np.inf
    scores[4] = -np.inf
    scores[4, 7] = -3000.0  # one score, far down: its weight is 1
    scores[5] = np.linspace(-200, 200, COUNT, dtype=np.float32)  # every piece outgrows all before
    scores[6] = np.linspace(200, -200, COUNT, dtype=np.float32)
    scores[7, 3] = np.nan
    scores[8, 60] = np.inf
    values = rng.standard_normal((ROWS, COUNT)).astype(np.float32)
    out = np.zeros((ROWS, 4, 2), np.float32)
    arguments = [scores, values, out, np.uint32(COUNT), np.uint32(CUT)]
    device_units.run(where, "softmax", "soften", ROWS // 64, 64, arguments)

    wide = scores.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        base = np.where(np.isneginf(wide.max(1)), 0, wide.max(1))[:, None]
        weights = np.exp2(wide - base)
        total = weights.sum(1)
        average = np.where(total == 0, 0, (weights * values).sum(1) / total)
        log_sum_exp = (base[:, 0] + np.log2(total)) * np.log(2)
    good = np.ones(ROWS, bool)
    good[[7, 8]] = False
    assert np.isnan(out[~good][:, :, 0]).all(), "a NaN or an infinite score must show"
    magnitude = (weights * np.abs(values))[good].sum(1) / np.maximum(total[good], 1e-300)
    for way, name in enumerate(("whole", "late", "parts", "divided parts")):
        error = np.abs(out[good, way, 0] - average[good])
        # An exponent of up to 2^5 that still weighs is rounded to 2^-19, relative to 1; the rest is the sums' rounding.
        assert (error <= 4e-6 * magnitude + 1e-30).all(), f"{name}: {error.max()}"
        found, expected = out[good, way, 1], log_sum_exp[good]
        assert (np.isneginf(found) == np.isneginf(expected)).all(), name
        finite = np.isfinite(expected)
        excess = np.abs(found[finite] - expected[finite]) - 2e-6 * np.maximum(1, np.abs(expected[finite]))
        assert (excess <= 0).all(), f"{name}: {excess.max()}"
    assert (out[1] == np.array([0, -np.inf], np.float32)).all(), "a row without scores averages to 0"
