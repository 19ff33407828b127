"""A system as scikit-learn's estimator, for its pipelines, searches and calibration.

>>> classifier = GenerativeClassifier("ib-inn", beta=1.0, random_state=0).fit(X, y)
>>> classifier.predict_proba(X)        # q(y|x), (N, K)
>>> classifier.score_samples(X)        # log q(x), (N,), nats, in the data's own units
>>> GridSearchCV(classifier, {"beta": [0.1, 1, 10]})

It trains in the loop of `flowclf.train`. Nothing else in flowclf imports this package, as
scikit-learn is slow to load.
"""

from flowclf.sklearn.estimator import GenerativeClassifier

__all__ = ["GenerativeClassifier"]
