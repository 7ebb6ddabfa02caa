import numpy as np
import pytest

from pcejax.placements import Candidates, border_distance, candidates, first, first_apart


def blobs(seed, shape=(40, 50), classes=3):
    """Smooth random regions."""
    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-3, 4))
    return noise.argmax(0).astype(np.uint8)


def candidates_of(stratum, placement="random", distance=None, boundary_px=2, seed=0, tile_id="119"):
    return candidates(
        stratum, placement=placement, distance=distance, boundary_px=boundary_px, seed=seed, tile_id=tile_id
    )


def test_the_distance_is_one_at_the_border_and_one_more_for_each_pixel_from_there():
    mask = blobs(0)
    padded = np.pad(mask, 1, mode="edge")
    around = np.stack([padded[r : r + 40, c : c + 50] for r in range(3) for c in range(3)])
    border = np.argwhere((around != mask).any(0))
    assert len(border)
    pixels = np.argwhere(np.ones_like(mask))
    expected = 1 + np.sqrt(((pixels[:, None] - border) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(border_distance(mask).ravel(), expected)


def test_a_tile_without_a_border_is_infinitely_far_from_one():
    assert np.isinf(border_distance(np.full((5, 6), 3, np.uint8))).all()
    # So all its pixels are alike, and none lies along a border.
    stratum = np.arange(30)
    distance = np.full((5, 6), np.inf)
    inside = first(candidates_of(stratum, "interior", distance), 7)
    np.testing.assert_array_equal(inside, first(candidates_of(stratum), 7))
    assert candidates_of(stratum, "boundary", distance).pixels.size == 0


def frequencies(draw, n, tiles=4000):
    """How often each of n pixels is the first, and is among the first three."""
    counts = np.zeros((2, n))
    for tile in range(tiles):
        drawn = draw(str(tile))
        counts[0, drawn[0]] += 1
        counts[1, drawn[:3]] += 1
    return counts / tiles


def chances_without_replacement(weights):
    """Of each item to be the first, and to be among the first three, of draws in proportion to the weights."""
    n = len(weights)
    among = np.zeros(n)
    for a in range(n):
        for b in range(n):
            for c in range(n):
                if len({a, b, c}) == 3:
                    p = weights[a] / weights.sum()
                    p *= weights[b] / (weights.sum() - weights[a])
                    p *= weights[c] / (weights.sum() - weights[a] - weights[b])
                    among[[a, b, c]] += p
    return np.stack([weights / weights.sum(), among])


def leave(got, expected, tiles=4000):
    return np.max(np.abs(got - expected) / np.sqrt(expected * (1 - expected) / tiles))


def test_interior_draws_in_proportion_to_the_distance_without_replacement():
    weights = np.array([1.0, 1, 2, 3, 5, 8])
    stratum = np.arange(6)
    expected = chances_without_replacement(weights)

    def interior(tile_id):
        return first(candidates_of(stratum, "interior", weights, tile_id=tile_id), 3)

    def deepest(tile_id):
        return np.argsort(-weights)[:3]

    def wrong_race(tile_id):
        # u / w in place of -log(1 - u) / w: looks alike, and is not a draw in proportion.
        pixels, keys = candidates_of(stratum, "random", tile_id=tile_id)
        return pixels[np.argsort(keys / weights)][:3]

    assert leave(frequencies(interior, 6), expected) < 4
    for biased in (deepest, wrong_race, lambda tile_id: first(candidates_of(stratum, tile_id=tile_id), 3)):
        assert leave(frequencies(biased, 6), expected) > 6


def test_interior_points_lie_deeper_than_random_ones_but_not_only_at_the_deepest_place():
    mask = blobs(1)
    distance = border_distance(mask)
    stratum = np.flatnonzero(mask == 0)
    depth = distance.ravel()
    drawn = {
        placement: depth[
            np.concatenate([first(candidates_of(stratum, placement, distance, tile_id=str(t)), 5) for t in range(300)])
        ]
        for placement in ("random", "interior", "boundary")
    }
    expected = (depth[stratum] ** 2).sum() / depth[stratum].sum()
    assert abs(drawn["random"].mean() - depth[stratum].mean()) < 4 * drawn["random"].std() / np.sqrt(1500)
    assert abs(drawn["interior"].mean() - expected) < 4 * drawn["interior"].std() / np.sqrt(1500)
    assert expected > depth[stratum].mean() + 8 * drawn["interior"].std() / np.sqrt(1500)
    assert (drawn["interior"] == 1).any()
    assert drawn["boundary"].max() <= 2


def test_boundary_pixels_within_the_band_are_equally_likely():
    mask = blobs(2, (12, 14), 2)
    distance = border_distance(mask)
    stratum = np.flatnonzero(mask == 0)
    band = stratum[distance.ravel()[stratum] <= 2]
    assert 10 < band.size < stratum.size
    counts = np.zeros(mask.size)
    for tile in range(2000):
        counts[first(candidates_of(stratum, "boundary", distance, tile_id=str(tile)), 5)] += 1
    assert counts.sum() == counts[band].sum() == 10_000
    share = 5 / band.size
    assert np.abs(counts[band] - 2000 * share).max() < 4.5 * np.sqrt(2000 * share * (1 - share))


def test_the_first_are_those_of_the_smallest_keys_in_their_order():
    rng = np.random.default_rng(0)
    some = Candidates(rng.permutation(50), rng.random(50))
    order = some.pixels[np.argsort(some.sort_keys)]
    for budget in (1, 7, 49, 50, 80):
        np.testing.assert_array_equal(first(some, budget), order[:budget])


def by_hand(strata, budget, width, min_distance_px):
    """The rule in plain loops."""
    taken, drawn = [], [[] for _ in strata]
    orders = [list(s.pixels[np.argsort(s.sort_keys)]) for s in strata]
    for rank in range(budget):
        for index, order in enumerate(orders):
            if len(drawn[index]) < rank:
                continue
            for pixel in order:
                row, col = divmod(int(pixel), width)
                if all((row - r) ** 2 + (col - c) ** 2 >= min_distance_px**2 for r, c in taken):
                    taken.append((row, col))
                    drawn[index].append(int(pixel))
                    break
    return drawn


@pytest.mark.parametrize("min_distance_px", [2, 3, 8, 100])
def test_points_apart_are_the_greedy_choice_rank_by_rank(min_distance_px):
    for seed in range(5):
        mask = blobs(seed, (20, 23))
        strata = [candidates_of(np.flatnonzero(mask == c), seed=seed) for c in range(3)]
        for budget in (1, 4, 30):
            got = first_apart(strata, budget, 23, mask.size, min_distance_px)
            assert [pixels.tolist() for pixels in got] == by_hand(strata, budget, 23, min_distance_px)


def test_a_smaller_budget_of_points_apart_is_the_first_of_a_larger_one():
    def stratum_by_stratum(strata, budget, *arguments):
        # Not rank by rank: a stratum's later points keep the next stratum's first ones away.
        size, far = arguments[1], arguments[2]
        drawn, merged = [], []
        for stratum in strata:
            kept = []
            for p in stratum.pixels[np.argsort(stratum.sort_keys)]:
                if len(kept) < budget and all(
                    (p // 50 - q // 50) ** 2 + (p % 50 - q % 50) ** 2 >= far**2 for q in merged + kept
                ):
                    kept.append(p)
            merged += kept
            drawn.append(np.array(kept))
        assert size == 2000
        return drawn

    def nested(draw):
        for seed in range(3):
            mask = blobs(seed)
            strata = [candidates_of(np.flatnonzero(mask == c), seed=seed) for c in range(3)]
            largest = draw(strata, 12, 50, mask.size, 6)
            for budget in range(1, 12):
                for fewer, more in zip(draw(strata, budget, 50, mask.size, 6), largest, strict=True):
                    if fewer.tolist() != more[:budget].tolist():
                        return False
        return True

    assert nested(first_apart)
    assert not nested(stratum_by_stratum)
