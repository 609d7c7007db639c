"""Classifier two-sample test: can a small network tell generated points from real ones?"""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor


def c2st(generated: Tensor, real: Tensor, folds: int = 2, epochs: int = 20, seed: int = 0) -> float:
    """Area under the ROC curve of points held out of the fit: 0.5 where nothing can be told, 1 where everything.

    Lopez-Paz and Oquab (2017), with the area in place of the accuracy, since it needs no threshold.  The network
    has one hidden layer of 64 and is fitted by scikit-learn on standardised coordinates, ``folds`` times, each
    time on all but one fold, of as many points of either kind.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    least = min(len(generated), len(real))
    generated, real = generated[:least], real[:least]
    x = np.concatenate([real.float().numpy(), generated.float().numpy()])
    y = np.repeat([0, 1], [len(real), len(generated)])
    areas = []
    for fit, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
        net = MLPClassifier((64,), batch_size=min(256, len(fit)),  # type: ignore[arg-type]
                            learning_rate_init=2e-3, max_iter=epochs, random_state=seed)
        model = make_pipeline(StandardScaler(), net)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is the intention
            model.fit(x[fit], y[fit])
        areas.append(roc_auc_score(y[held_out], model.predict_proba(x[held_out])[:, 1]))
    return float(np.mean(areas))
