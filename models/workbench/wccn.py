"""Within-class covariance whitening: what pictures of one label differ by counts less.

Source: Hatch, Kajarekar, Stolcke, Within-class covariance normalization for SVM-based speaker
recognition, Interspeech 2006. Here embeddings are centred first, and the covariance is shrunk
towards a multiple of the identity: it has more numbers than there are pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.build.linear import LinearMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twinlens.models.session import Embeddings

# Of the mean variance. Without shrinkage, a direction in which no label varies would become
# infinitely long.
_SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True)
class WithinClass:
    """How pictures of one label differ, over all labels, as principal components.

    `mean` is float64 [d], of all pictures; `components` [r, d] are rows of length 1; `variances`
    [r] along them are multiples of the mean variance over all d directions. In all others it is 0.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]

    def whitening(self, shrinkage: float) -> LinearMap:
        """Returns the map that makes the shrunk covariance the identity, but for its scale.

        Args:
            shrinkage: From 0, the covariance itself, to 1, the same variance everywhere: then the
                map subtracts the mean and nothing else.
        """
        outside = _stretch(np.zeros(1), shrinkage)
        along = _stretch(self.variances, shrinkage) - outside
        matrix = self.components.T * along @ self.components
        matrix[np.diag_indices_from(matrix)] += outside
        return LinearMap(self.mean.astype(np.float32), matrix.astype(np.float32))


def measure_within(rows: Embeddings, codes: NDArray[np.intp]) -> WithinClass:
    """Measures how pictures of one label differ.

    Args:
        rows: float32 [n, d].
        codes: [n], a number for each label.
    """
    sample = rows.astype(np.float64)
    _, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), sample.shape[1]))
    np.add.at(sums, places, sample)
    differences = sample - (sums / counts[:, np.newaxis])[places]
    _, spreads, components = np.linalg.svd(differences, full_matrices=False)
    variances = spreads**2
    # Where no two pictures of a label differ there is nothing to whiten, and no scale.
    scale = max(variances.sum() / sample.shape[1], np.finfo(np.float64).tiny)
    return WithinClass(sample.mean(axis=0), components, variances / scale)


def _stretch(variances: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    shrunk = (1 - shrinkage) * variances + shrinkage
    stretches: NDArray[np.float64] = 1 / np.sqrt(np.maximum(shrunk, _SMALLEST_VARIANCE))
    return stretches
