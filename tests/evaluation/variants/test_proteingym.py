"""Scores of ProteinGym's assays are those of a plain loop over transformers, one sequence a forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plm_composer.evaluation.variants.assays import find_assays, read_assay, read_reference
from plm_composer.evaluation.variants.evaluate import compare_assay, draw_mutants, score_assay
from plm_composer.evaluation.variants.methods import Scorer
from plm_composer.evaluation.variants.mutations import Variant
from tests.evaluation.plain_loop import PlainLoop, ratio, small_model

ASSAYS = 17
PLL_MUTANTS = 1
"""Mutants of an assay that are scored by pseudo-log-likelihood: each takes as many passes as it has residues, twice."""


@pytest.mark.slow
def test_all_assays_agree_with_a_plain_loop(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "proteingym"
    reference = read_reference(folder / "DMS_substitutions.csv")
    model = small_model()
    loop, scorer = PlainLoop(model, tmp_path), Scorer(model)
    differences: dict[str, list[float]] = {"masked-marginals": [], "wt-marginals": [], "pll": []}
    paths = find_assays([folder / "DMS_ProteinGym_substitutions"])
    assert len(paths) == ASSAYS
    for path in paths:
        assay = read_assay(path, reference)
        target = assay.target
        assert target is not None
        positions = {each.index for variant in assay.variants for each in variant.substitutions or ()}
        for method, look in {"masked-marginals": loop.masked, "wt-marginals": loop.seen}.items():
            tables = {index: look(target, index) for index in positions}

            def plainly(variant: Variant, tables: dict[int, np.ndarray] = tables) -> float:
                return sum(
                    ratio(tables[each.index], each.wildtype, each.mutant) for each in variant.substitutions or ()
                )

            found = score_assay(scorer, method, assay)
            assert np.std(found) > 0.1
            differences[method].append(np.abs(found - [plainly(variant) for variant in assay.variants]).max())
        few = draw_mutants(assay, PLL_MUTANTS, 0)
        wanted = [loop.pll(variant.sequence) - loop.pll(target) for variant in few.variants]
        differences["pll"].append(np.abs(score_assay(scorer, "pll", few) - wanted).max())
        assert compare_assay(assay, found) is not None
    for method, each in differences.items():
        print(f"{method}: largest difference {max(each):.1e}")
        # In fp32, whose roundings differ between kernels; sums over a thousand residues add them up.
        assert max(each) < 1e-4 * (10 if method == "pll" else 1)
