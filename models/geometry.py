"""Proves that a picture is a copy of another, or of a part of it: local features that lie alike.

Embeddings say that two pictures look alike. Here hundreds of corners of one are found in the other,
and one affine map takes them all to their places: two pictures of the same kind of thing have no
such map, and what it maps to is the part that was copied. Laid on each other by it, copies are the
same all over; photos of one printed label are so only there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import atan2, degrees
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from twinlens.models.card import InputSpec, Resample
from twinlens.models.pictures import Picture, Region

# Longer side of what features are found in, and how many: so a copy cropped to half of the sides
# keeps a quarter of them (docs/decisions/0011-near-duplicates.md has the figures).
SIDE_PX = 384
N_FEATURES = 1500
# Of these, the strongest, compared first: 14 times cheaper, and enough for most copies.
N_STRONGEST = 400
# Small pictures are enlarged, by no more: features are found over 31 pixels.
_MAX_ENLARGED = 2.0
# A corner differs from its surroundings by so many of 255 levels. OpenCV's 20 leaves soft and dark
# pictures without any.
_FAST_THRESHOLD = 5
# Source: Lowe, Distinctive Image Features from Scale-Invariant Keypoints, 2004, section 7.1: of the
# nearest descriptor and the second, so that what repeats in a picture does not count.
_MAX_RATIO = 0.8
# Where the map may miss, in pixels of SIDE_PX: a hundredth of it.
_MAX_MISS_PX = 4.0
# Unrelated photos reach 6 by chance.
MIN_INLIERS = 10
# A copy is stretched by less, and is not so much smaller: such maps come from a few points in line.
_MAX_STRETCH, _MAX_SCALE = 3.0, 12.0

# Longer side of what is laid on each other, so that a map may miss by a pixel or two; and how alike
# it is at least. Another photo of the same printed label has the same corners, and 0.1 to 0.7 here.
_LIKENESS_PX = 128
MIN_LIKENESS = 0.75

# Pictures are looked at side by side, each in one thread.
cv2.setNumThreads(1)

_Points = NDArray[np.float32]


class Features(NamedTuple):
    """What a picture is recognised by, the strongest first.

    `points` is float32 [n, 2], x and y from 0 to 1 of the picture; `descriptors` is uint8 [n, 32],
    256 bits each; `width` and `height` are those of the small picture that they are from. `grey` is
    a still smaller one, uint8 [h, w], not mirrored.
    """

    points: _Points
    descriptors: NDArray[np.uint8]
    width: int
    height: int
    grey: NDArray[np.uint8]


class Forms(NamedTuple):
    """The features of a picture as it is, and of its mirror image."""

    upright: Features
    mirrored: Features


@dataclass(frozen=True)
class Placement:
    """Where one picture lies in another.

    `matrix` is float64 [2, 3]: it takes (x, y, 1) in the first, from 0 to 1, to the same place in
    the second, which may lie beyond its edges. `n_inliers` is how many features agree with it,
    `likeness` the correlation of what it lays on each other. `aspects` are width by height of both.
    """

    matrix: NDArray[np.float64]
    n_inliers: int
    aspects: tuple[float, float]
    likeness: float

    @property
    def inverse(self) -> Placement:
        """Where the second lies in the first."""
        linear = np.linalg.inv(self.matrix[:, :2])
        matrix = np.column_stack([linear, -linear @ self.matrix[:, 2]])
        return Placement(matrix, self.n_inliers, (self.aspects[1], self.aspects[0]), self.likeness)

    @property
    def is_mirrored(self) -> bool:
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    @property
    def turned_degrees(self) -> int:
        """By how much the first is turned anticlockwise relative to the second, from 0 to 359."""
        (a, _), (c, _) = self._in_pixels
        sign = -1 if self.is_mirrored else 1
        return round(degrees(atan2(c, sign * a))) % 360

    @property
    def region(self) -> Region:
        """The part of the second picture that the first shows: an upright rectangle."""
        return _covered(self.matrix)

    @property
    def query_region(self) -> Region:
        """The part of the first picture in which the second lies."""
        return _covered(self.inverse.matrix)

    @cached_property
    def _in_pixels(self) -> NDArray[np.float64]:
        """float64 [2, 2]: the linear part, where both pictures have height 1."""
        first, second = self.aspects
        scaled = self.matrix[:, :2] * np.array([[second], [1.0]]) / np.array([[first, 1.0]])
        return np.asarray(scaled, np.float64)


def find_features(picture: Picture, *, is_mirrored: bool = False) -> Features:
    """Finds what a picture is recognised by.

    Args:
        picture: The picture, decoded for a shorter side of SIDE_PX or more.
        is_mirrored: Whether it is mirrored first, left to right: descriptors of a mirrored picture
            are others. The points are those of the picture as it is.

    Returns:
        At most N_FEATURES. A picture without corners has none.

    Source: Rublee and others, ORB: an efficient alternative to SIFT or SURF, ICCV 2011.
    """
    scale = min(_MAX_ENLARGED, SIDE_PX / max(picture.width, picture.height))
    width, height = (max(8, round(side * scale)) for side in (picture.width, picture.height))
    spec = InputSpec(width=width, height=height, resample=Resample.BILINEAR)
    upright = cv2.cvtColor(picture.pixels_for(spec), cv2.COLOR_RGB2GRAY)
    small = np.asarray(
        cv2.resize(upright, _small_size(width, height), interpolation=cv2.INTER_AREA), np.uint8
    )
    grey = np.ascontiguousarray(upright[:, ::-1]) if is_mirrored else upright
    corners, descriptors = cv2.ORB.create(
        nfeatures=N_FEATURES, fastThreshold=_FAST_THRESHOLD
    ).detectAndCompute(grey, None)
    if not corners:
        return Features(
            np.empty((0, 2), np.float32), np.empty((0, 32), np.uint8), width, height, small
        )
    strongest = np.argsort([-corner.response for corner in corners], kind="stable")
    places = np.asarray(cv2.KeyPoint.convert(corners), np.float32)
    size = np.array([width, height], np.float32)
    points = np.divide(places[strongest], size, dtype=np.float32)
    if is_mirrored:
        points[:, 0] = 1.0 - points[:, 0]
    return Features(points, np.asarray(descriptors, np.uint8)[strongest], width, height, small)


def find_forms(picture: Picture) -> Forms:
    """Finds the features of a picture, as it is and mirrored; see `find_features`."""
    return Forms(find_features(picture), find_features(picture, is_mirrored=True))


def locate_any(query: Forms, stored: Features) -> Placement | None:
    """Tells where a picture, or its mirror image, lies in another; see `locate`.

    The strongest features are compared first, and all only where they prove nothing.
    """
    for n_features in (N_STRONGEST, N_FEATURES):
        for form in query:
            if placement := locate(form, stored, n_features):
                return placement
    return None


def locate(query: Features, stored: Features, n_features: int = N_FEATURES) -> Placement | None:
    """Tells where a picture lies in another, if it is a copy of it or of a part.

    Args:
        query: Of the first.
        stored: Of the second.
        n_features: How many of the strongest of each are compared.

    Returns:
        None if no map takes MIN_INLIERS features of one to theirs in the other, or if what it lays
        on each other is not as alike as MIN_LIKENESS.
    """
    ours, theirs = _matches(query.descriptors[:n_features], stored.descriptors[:n_features])
    if len(ours) < MIN_INLIERS:
        return None
    sizes = [np.array([one.width, one.height], np.float32) for one in (query, stored)]
    source, target = query.points[ours] * sizes[0], stored.points[theirs] * sizes[1]
    matrix, is_inlier = cv2.estimateAffine2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=_MAX_MISS_PX
    )
    if matrix is None or not _is_likely(np.asarray(matrix, np.float64)):
        return None
    # Several corners at one place, as of a pyramid's levels, prove no more than one.
    n_inliers = len(np.unique(np.round(target[is_inlier.ravel() > 0] / _MAX_MISS_PX), axis=0))
    if n_inliers < MIN_INLIERS:
        return None
    shares = np.column_stack([matrix[:, :2] * sizes[0], matrix[:, 2]]) / sizes[1][:, np.newaxis]
    aspects = (query.width / query.height, stored.width / stored.height)
    likeness = _likeness(query.grey, stored.grey, shares)
    if likeness < MIN_LIKENESS:
        return None
    return Placement(np.asarray(shares, np.float64), n_inliers, aspects, likeness)


def _small_size(width: int, height: int) -> tuple[int, int]:
    scale = _LIKENESS_PX / max(width, height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def _likeness(
    query: NDArray[np.uint8], stored: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> float:
    """Returns how alike two pictures are where both show the same: a correlation, 1 of a copy."""
    (height, width), (rows, columns) = query.shape, stored.shape
    pixels = matrix * np.array([[columns], [rows]]) / np.array([[width, height, 1.0]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(stored, pixels, (width, height), flags=how)
    covered = cv2.warpAffine(np.full_like(stored, 255), pixels, (width, height), flags=how) == 255
    ours, theirs = query[covered].astype(np.float64), laid[covered].astype(np.float64)
    if len(ours) < 64 or ours.std() == 0 or theirs.std() == 0:
        return 0.0
    return float(np.corrcoef(ours, theirs)[0, 1])


def _matches(
    query: NDArray[np.uint8], stored: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs descriptors that are much nearer than any other: places in both, intp [m] each."""
    if len(query) < MIN_INLIERS or len(stored) < MIN_INLIERS:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    far, places = cv2.batchDistance(query, stored, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=2)
    ours = np.flatnonzero(far[:, 0] < _MAX_RATIO * far[:, 1])
    theirs = places[ours, 0].astype(np.intp)
    # Of several that match one, the nearest.
    order = np.argsort(far[ours, 0], kind="stable")
    _, firsts = np.unique(theirs[order], return_index=True)
    kept = order[firsts]
    return ours[kept], theirs[kept]


def _is_likely(matrix: NDArray[np.float64]) -> bool:
    """Tells if a map of pixels is one that a copy could have."""
    if not np.isfinite(matrix).all():
        return False
    longest, shortest = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return bool(shortest * _MAX_STRETCH > longest and 1 / _MAX_SCALE < shortest < _MAX_SCALE)


def _covered(matrix: NDArray[np.float64]) -> Region:
    """Returns the upright rectangle that a map takes the whole of a picture to, within another."""
    corners = np.array([(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]) @ matrix.T
    (left, top), (right, bottom) = (np.clip(f(corners, axis=0), 0, 1) for f in (np.min, np.max))
    return Region(float(left), float(top), float(right), float(bottom))
