"""Ten logistic regressions, one for each digit against the others, on 64 pixels."""

from __future__ import annotations

from sklearn.linear_model import SGDClassifier

from choral.tasks.sklearn import SklearnTask

task = SklearnTask(SGDClassifier(loss="log_loss", alpha=1e-4), input_dim=64, classes=10)
