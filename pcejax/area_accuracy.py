"""The accuracy of a map and the areas of its classes, from a stratified random sample of reference points.

A map's own areas are biased by its errors, and a sample's accuracy by how many points each class got. The stratified
estimators mend both: Olofsson et al. (2014), "Good practices for estimating area and assessing accuracy of land
change", Remote Sensing of Environment 148, 42-57. Equation numbers are theirs. The strata are the map's classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcejax.errors import UserError

NORMAL_95 = 1.96
"""Standard errors to either side of an estimate that make a 95 % confidence interval, as the paper rounds them."""


class Estimate(NamedTuple):
    """What was estimated and its standard error, float64 of one shape; NaN where the sample does not tell."""

    value: np.ndarray
    standard_error: np.ndarray

    def interval(self, most: float) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the 95 % confidence interval, within the possible values 0 to `most`."""
        reach = NORMAL_95 * self.standard_error
        return np.clip(self.value - reach, 0, most), np.clip(self.value + reach, 0, most)


class Accuracy(NamedTuple):
    """What a sample tells of a map of C classes.

    Users' accuracy is NaN for a class that the map lacks, producers' for one that no reference point has.
    """

    proportions: np.ndarray  # float64 [C, C]: the share of the area that has map class i and reference class j
    overall: Estimate  # []: the share of the area that is mapped right
    users: Estimate  # [C]: the share of map class i that is right
    producers: Estimate  # [C]: the share of reference class j that is mapped as such
    areas: Estimate  # [C]: of reference class j, in the unit of the mapped areas


def estimate(counts: np.ndarray, mapped: np.ndarray) -> Accuracy:
    """The stratified estimators of accuracy and area.

    Each class that the map has needs two points or more, or one where that is all of it: a single point adds nothing to
    standard errors. Without any, estimates are NaN. Standard errors are those of sampling with replacement, too large
    where most of a class is sampled.

    Args:
      counts: int `[C, C]`, the points of map class i (row) and reference class j (column).
      mapped: `[C]`, the area of each map class in pixels or any other unit.
    """
    there = (mapped > 0)[:, None]
    points = counts.sum(1, keepdims=True)
    weight = (mapped / mapped.sum())[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(there, counts / points, 0.0)
        variance = np.where(there, share * (1 - share) / np.maximum(points - 1, 1), 0.0)  # of `share`, by row
        proportions = weight * share  # eq. 4
        reference = proportions.sum(0)  # eq. 9
        right = np.diag(proportions)
        producers = right / reference  # eq. 3
        # Eq. 7: what a class's own row and the others add to the error of right / reference.
        slope = np.where(np.eye(len(mapped), dtype=bool), 1 - producers, producers)
        producers_variance = ((weight * slope) ** 2 * variance).sum(0) / reference**2
    users = np.where(there, share, np.nan).diagonal()  # eq. 2
    users_variance = np.where(there, variance, np.nan).diagonal()  # eq. 6
    overall_variance = (weight[:, 0] ** 2 * variance.diagonal()).sum()  # eq. 5
    area_variance = (weight**2 * variance).sum(0)  # eq. 10
    total = mapped.sum()
    return Accuracy(
        proportions,
        Estimate(right.sum(), np.sqrt(overall_variance)),  # eq. 1
        Estimate(users, np.sqrt(users_variance)),
        Estimate(producers, np.sqrt(producers_variance)),
        Estimate(total * reference, total * np.sqrt(area_variance)),  # eq. 11
    )


def allocate(mapped: np.ndarray, total: int, minimum: int) -> np.ndarray:
    """Points for each map class, int64 `[C]`, `total` in all: in proportion to area, but no fewer than `minimum`.

    Proportional shares alone leave a rare class too few points to tell anything of it, equal ones spoil the overall
    accuracy and the common classes' areas; the paper (section 5.1) goes this way between. A class of fewer pixels than
    `minimum` gets a point on each.

    Args:
      mapped: int `[C]`, the pixels of each map class.
      total: the number of points.
      minimum: of a class that the map has.

    Raises:
      UserError: `total` is less than the minima together, or more than there are pixels.
    """
    mapped = mapped.astype(np.int64)
    least = np.minimum(mapped, minimum)
    if not least.sum() <= total <= mapped.sum():
        raise UserError(
            f"{total} reference points; expected {least.sum()} to {mapped.sum()}: at least {minimum} in each of the "
            f"map's {(mapped > 0).sum()} classes, or all of a class's pixels, and no pixel twice"
        )
    rare = mapped == 0
    while True:
        rest, pixels = total - least[rare].sum(), mapped[~rare].sum()
        short = ~rare & (rest * mapped < least * pixels)
        if not short.any():
            break
        rare |= short
    whole, remainder = np.divmod(rest * mapped, max(pixels, 1))
    points = np.where(rare, least, whole)
    largest = np.argsort(np.where(rare, 1, -remainder), kind="stable")
    points[largest[: total - points.sum()]] += 1
    return points
