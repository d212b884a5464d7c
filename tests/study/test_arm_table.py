"""The table of arms: each seed's number, and their mean with Student's interval."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from videonorm.look import CI
from videonorm.study.arm_table import arm_table


def test_arm_table(explosion):
    claim = explosion.study.claims[0]
    headings, rows = arm_table(explosion, claim)
    seeds = [heading for heading in headings if heading.startswith("seed ")]
    assert headings == ["", *seeds, f"mean ({CI})"] and len(seeds) > 1
    values = np.array([float(text.replace("\u2212", "-")) for text in rows[0][1:-1]])
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    shown = [
        float(text)
        for text in rows[0][-1].replace("\u2212", "-").strip(")").replace(" to", "").split(" (")[1].split()
    ]
    assert shown == pytest.approx([low, high], rel=0.02)

    headings, rows = arm_table(explosion, replace(claim, statistic="ratio"))
    assert headings[-1] == f"geometric mean ({CI})"
    assert float(rows[0][-1].split(" (")[0]) == pytest.approx(stats.gmean(values), rel=1e-2)
