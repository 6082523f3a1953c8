from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge

from attar.errors import TeacherError
from attar.teachers.probe import fit_probe
from attar.teachers.quality import fit_temperature, label_loss


def blobs(n: int, classes: int = 4, width: int = 6, seed: int = 0, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 2
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return (centres[labels] + rng.normal(size=(n, width)) * noise + 7).astype(np.float32), labels


def test_it_is_about_as_good_as_scikit_learns_regression_on_raw_features():
    train, held = blobs(400), blobs(400, seed=1)
    probe = fit_probe(train, held, classes=4, problem="single_label", metric="accuracy")
    plain = LogisticRegression(max_iter=1000).fit(*train).score(*held)
    found = float((probe.logits(held[0]).argmax(1) == held[1]).mean())
    assert found == pytest.approx(probe.validation)
    assert found > plain - 0.02


def test_probabilities_are_calibrated_on_validation_and_the_temperature_is_in_the_head():
    held = blobs(600, seed=1)
    probe = fit_probe(blobs(60), held, classes=4, problem="single_label", metric="accuracy")
    assert fit_temperature(probe.logits(held[0]), held[1], "single_label") == pytest.approx(1.0, abs=0.01)
    confidence = softmax(probe.logits(held[0]), axis=1).max(1)
    assert confidence.mean() == pytest.approx(probe.validation, abs=0.06)


def test_the_temperature_is_the_least_of_the_loss():
    logits = np.random.default_rng(0).normal(size=(500, 3)) * 8
    labels = np.array([np.random.default_rng(i).choice(3, p=softmax(row / 4)) for i, row in enumerate(logits)])
    found = fit_temperature(logits, labels, "single_label")
    assert found == pytest.approx(4.0, rel=0.15)
    for other in (0.9, 1.1):
        assert label_loss(logits / found, labels, "single_label") <= label_loss(
            logits / (found * other), labels, "single_label"
        )


def test_rows_without_a_label_are_left_out():
    features, labels = blobs(300)
    masked = labels.copy()
    masked[200:] = -100
    held = blobs(100, seed=1)
    one = fit_probe((features, masked), held, classes=4, problem="single_label", metric="accuracy")
    other = fit_probe((features[:200], labels[:200]), held, classes=4, problem="single_label", metric="accuracy")
    np.testing.assert_allclose(one.weight, other.weight)


def test_two_classes_and_a_class_that_train_lacks():
    features, labels = blobs(300, classes=3)
    only = labels < 2
    probe = fit_probe(
        (features[only], labels[only]),
        (features[only], labels[only]),
        classes=3,
        problem="single_label",
        metric="accuracy",
    )
    logits = probe.logits(features[only])
    assert not (logits.argmax(1) == 2).any()
    assert np.isfinite(logits).all()
    assert (logits.argmax(1) == labels[only]).mean() > 0.8


def test_several_labels_one_against_the_rest():
    features, labels = blobs(400, classes=3)
    marks = np.stack([labels == 0, labels > 0, np.zeros_like(labels, dtype=bool)], 1).astype(np.float32)
    marks[:20, 0] = np.nan
    probe = fit_probe((features, marks), (features, marks), classes=3, problem="multi_label", metric="micro_f1")
    p = expit(probe.logits(features))
    known = ~np.isnan(marks[:, 0])
    assert ((p[known, 0] > 0.5) == (marks[known, 0] > 0.5)).mean() > 0.8
    assert (p[:, 2] < 0.05).all()


def test_a_number_by_ridge():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    target = (features @ np.arange(5) + 3 + 0.1 * rng.normal(size=200)).astype(np.float32)
    probe = fit_probe((features, target), (features, target), classes=1, problem="regression", metric="pearson")
    expected = Ridge(alpha=1e-6).fit(features, target).predict(features)
    np.testing.assert_allclose(probe.logits(features)[:, 0], expected, atol=0.3)
    assert probe.temperature == 1.0
    assert probe.validation > 0.99


def test_no_label_and_one_label_are_errors():
    features, _ = blobs(20)
    held = blobs(20, seed=1)
    with pytest.raises(TeacherError, match="no training row has a label"):
        fit_probe((features, np.full(20, -100)), held, classes=4, problem="single_label", metric="accuracy")
    with pytest.raises(TeacherError, match="all training rows have one label"):
        fit_probe((features, np.zeros(20, dtype=np.int64)), held, classes=4, problem="single_label", metric="accuracy")


def test_validation_without_labels_still_gives_a_head():
    features, labels = blobs(100)
    probe = fit_probe(
        (features, labels), (features, np.full(100, -100)), classes=4, problem="single_label", metric="accuracy"
    )
    assert probe.validation is None
    assert probe.temperature == 1.0
    assert (probe.logits(features).argmax(1) == labels).mean() > 0.8
