"""Matthews' correlation coefficient of classes in [-1, 1], by scikit-learn; guesses by chance give 0."""

from functools import partial

from sklearn.metrics import matthews_corrcoef

from autopeft.metrics.parts.label_metric import LabelMetric, score_by_cells

PART = LabelMetric(name="matthews", kinds=("class",), score=partial(score_by_cells, matthews_corrcoef))
