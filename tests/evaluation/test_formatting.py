"""Results as one line and as tables."""

import numpy as np
import pytest

from keras_arcface import evaluation
from keras_arcface.evaluation.tables import verification_table


@pytest.fixture(scope="module")
def results():
    """One result of each protocol, for ten identities with four embeddings each."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 4)
    rows = np.eye(10, 16)[labels] + 0.2 * generator.normal(size=(40, 16))
    ids, pooled = evaluation.pool_templates(rows, np.arange(40) // 2)
    pairs = np.array([(a, b) for a in range(20) for b in range(a)])
    known, cameras = labels < 8, np.arange(40) % 2
    return [
        evaluation.verify(rows[np.arange(80) % 40], np.arange(40) % 2 == 0),
        evaluation.verify_templates(pooled, ids, pairs, pairs[:, 0] // 2 == pairs[:, 1] // 2, progress=False),
        evaluation.identify(rows[::2], labels[::2], rows[1::2][known[1::2]], labels[1::2][known[1::2]], progress=False),
        evaluation.identify_among_distractors(rows[known], labels[known], rows[~known], (0.1,), progress=False),
        evaluation.reidentify(rows[::2], labels[::2], cameras[::2], rows[1::2], labels[1::2], cameras[1::2], False),
        evaluation.retrieve(rows, labels, (1, 2), progress=False),
        evaluation.score_clusters(labels, labels // 2),
        evaluation.by_group(np.arange(200) / 199, np.arange(200) % 2 == 0, np.arange(200) // 2 % 2, threshold=0.5),
        evaluation.find_label_noise(rows, labels, np.eye(10, 16)),
    ]


def test_repr_has_figures_and_no_arrays(results):
    parts = [results[-2].overall, results[-2].fmr_difference]
    for result in [*results, results[0].grid, results[0].roc, *parts]:
        shown = repr(result)
        print(shown)
        assert shown.startswith(f"{type(result).__name__}(")
        assert len(shown) < 200
        assert not any(word in shown for word in ("array", "object at", "\n", "np.float"))
    assert repr(results[0]).startswith(f"VerificationResult(accuracy={results[0].accuracy:.4f}, accuracy_std=")
    assert repr(results[0]).endswith("genuine=20, impostor=20)")
    assert repr(results[2]) == "IdentificationResult(rank_1=1.0000, rank_5=1.0000, dir={}, mated=16, nonmated=4)"


def test_table_of_each_protocol(results):
    columns = [
        ["accuracy", "exact", "AUC", "EER", "TAR@0.1"],
        ["TAR@0.1", "TAR@0.01", "TAR@0.001", "TAR@0.0001", "TAR@1e-05", "TAR@1e-06", "AUC"],
        ["rank-1", "rank-5", "rank-10", "DIR@0.01", "DIR@0.1"],
        ["rank-1", "rank-5", "rank-10", "TAR@0.1"],
        ["mAP", "mAP (trapezoid)", "rank-1", "rank-5", "rank-10"],
        ["Recall@1", "Recall@2", "mAP@R", "R-precision"],
        [
            *("clusters", "noise", "pairwise precision", "pairwise recall", "pairwise F"),
            *("BCubed precision", "BCubed recall", "BCubed F", "NMI"),
        ],
        ["group", "TAR", "FNMR", "false non-matches", "FMR", "false matches"],
    ]
    for result, expected in zip(results, columns, strict=False):
        table = evaluation.results_table({"ours": result, "again": result})
        assert list(table.columns) == ["", *expected]
        rows = 3 if isinstance(result, evaluation.GroupResult) else 1  # both groups and all pairs
        assert [row[0] for row in table.rows] == ["ours"] * rows + ["again"] * rows
        assert table.rows[0][1:] == evaluation.results_table(result).rows[0][1:]
        assert repr(table) == str(table)
    assert evaluation.results_table(results[0]).rows == verification_table({"": results[0]}).rows
    assert evaluation.results_table(results[2]).rows == [["", "100.00%", "100.00%", "100.00%", "-", "-"]]


def test_invalid_results(results):
    with pytest.raises(TypeError, match=r"results of one protocol.* Received: VerificationResult, TemplateResult"):
        evaluation.results_table({"ours": results[0], "theirs": results[1]})
    with pytest.raises(TypeError, match="Received: LabelNoise"):
        evaluation.results_table(results[-1])
    with pytest.raises(ValueError, match="at least one result"):
        evaluation.results_table({})
