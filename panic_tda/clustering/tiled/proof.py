"""Proof that tiles, threads, a killed run and the device do not change the result.

Let x be the n distinct float32 rows, of unit length but for rounding (step 11 has rows of other lengths).
d(p, q) = ‖x_p − x_q‖ is measured in float64; core_p is the `min_samples`-th smallest of the distances from p,
itself and copies counted; w(p, q) = max(core_p, core_q, d(p, q)), and nothing is less than the distance
floor. The engine owes a minimum spanning tree of the complete graph with weights w. Such a tree need not be
unique, but its sorted weights are, and so is all that the hierarchy makes of it (`hierarchy`: merges at one
height happen at once). s̃ is the product of two rows as float32 gives it; the other words are those of the
engine's page (`panic_tda.clustering.tiled`).

What is claimed: with one library of arrays, the same heights to the last bit, and so the same clusters.
With another one (a device), distances that differ in the last of some sixteen digits, since sums are
taken in another order; heights within nine digits count as equal, so that the clusters are the same
unless two heights lie just that far apart.

1. **What decides is a function of two rows.** Every distance that ends up in a core distance or a height
   is a sum of squared differences in float64 (`kernels.distance`, `tiled.device`). No tile, thread
   or order of rows enters it.
2. **What float32 products do is leave pairs out.** For every pair, in any order of summation, |s̃ − (1 −
   d²/2)| ≤ η (`margins.product_margin`, after Higham). A pair is left out only when s̃ lies more than η
   on the safe side of what would matter, thresholds rounded towards keeping it.
3. **The bound by axes leaves out no more, packed or not.** A product of points plus the slack is never below
   that of the rows (`axes`, by Cauchy-Schwarz; `margins.bound_margin` for its rounding). The micro-kernels
   compare products of points, or of whole rows, as packed; a pair is a candidate unless its sum is below a
   threshold that is on the safe side:

   *Rounding to integers.* A point p of m coordinates is packed as q = S·p + e. Each coordinate of e is at
   most a half, so that ‖e‖ ≤ E = √m/2. From q·q' = S²·(p·p') + S·p·e' + S·e·p' + e·e' and Cauchy-Schwarz,
   |q·q' - S²·(p·p')| ≤ 2NE + E², where N bounds S·‖p‖. N and E are taken one part in a hundred larger than
   that, for S·p is computed in float32, and norms are 1 but for `margin` (`panels.choose_packing`).

   *Thresholds.* Product ≥ t implies q·q' ≥ S²·(t - slack) - 2NE - E². The right side is computed in
   float64, lowered by 1, which is more than its own rounding (S² < 2³⁰), and rounded down. A float32
   threshold that was rounded up is lowered by two units in the last place of any product
   (`panels.pack_thresholds`).

   *Saturation.* |q_k| ≤ S·‖p‖ + 1/2 < 2¹⁵, so no value is clipped. The sum of any subset of the terms of
   q·q', such as the sum in one lane at any step, is at most ‖q‖·‖q'‖ ≤ (N + E)² < 2³¹ in absolute value by
   Cauchy-Schwarz, so none overflows; nor do the two products of a word. Sums of integers are exact in every
   order.

   *Padding.* A word's missing half, and a slot without a row, are zeros on both sides: they add nothing to a
   sum. A slot without a row has an infinite threshold or core distance. As its partner's threshold may be
   reached by a product of 0, such pairs are dropped by row number (`pair_kernels.find_near_pairs`) or by
   core distance (`find_improving_edges`).

   *The coarse level.* A rotation changes no product but by the rounding of float64. A point is packed once
   more in two forms, l = S·p + e and r = S'·p + e', with ‖e‖, ‖e'‖ ≤ E measured for every row that is not
   rough, clipped values included (`coarse`). By Cauchy-Schwarz, with ‖p‖ ≤ N,

   |l·r' - S·S'·(p·p')| = |S·p·e' + S'·e·p' + e·e'| ≤ N·(S + S')·E + E²,

   and thresholds are lowered by that, and rounded, as above. A block is ruled out only when the largest sum
   of every column is below the smaller one of that column's threshold and the smallest of the rows': then no
   pair of it reaches the smaller threshold of its own two. A rough row has a threshold below every sum, and
   its own sums, right or wrong, can only make the largest of a column larger.
   A byte of the row form is l + 128, of 1 to 255, and |r_k| + |r_k+1| ≤ 128, so that no sum of two products
   saturates. Sums of 16 bits wrap around, and begin with -128·Σr over the values that they take: those of
   one lane in one segment. What is left modulo 2¹⁶ is Σ l·r' over these values, in absolute value at most the
   root of Σ l²·Σ r'². For rows that are not rough, both sums of squares are measured, and their product is at
   most (2¹⁵ - 1)². The sums of all lanes and segments are added in 32 bits.

   *Levels.* Whether a strip of pairs is looked at by int8 first, by points or by whole rows does not matter:
   each keeps every pair that can matter, and what decides about a candidate is the same.
4. **No near row is lost from a list.** Each pair of rows is looked at once, for both its lists, and
   dropped when its product is below the worst entry of both. The worst entry of a list only rises
   (`neighbours`).
5. **Core distances are exact.** Rows whose product is within 2η of the k-th one as float32 sees it are
   measured; those above are certainly nearer, those below certainly farther. A list too short to show
   that is not believed: its row is compared with all rows (`cores`).
6. **Any spanning tree is a valid initial one.** Lists and inter-component edges (`forest`, `joining`) give
   a tree with true weights; nothing else is required of them. So the search for such an edge may be limited
   to a few panels.
7. **No edge of the answer is passed over.** An edge that is no lighter than the heaviest edge on the
   tree's path between its ends is a heaviest one of a cycle, and a minimum spanning tree exists without
   it. In dendrogram order path maxima are maxima of ranges of merge heights, hence of each row's own part and
   those of the tiles between (`improving_edges`); a row whose core distance is not below any of them is
   pruned, whatever its products.
8. **Any set of edges may be replaced by a forest of it**, those of one tile or of several. What is not in a
   minimum spanning forest of some edges is a heaviest edge of a cycle among them, and so in no need to be in
   that of all.
9. **A better tree in the middle changes nothing.** Path maxima only fall from one tree to the next, and
   positions stay (`verify`): what was no lighter than before is no lighter now.
10. **So neither does a kill.** A state is the lists, or the tree, with the pairs of tiles that are done;
    what comes after it is the same argument over the pairs that are left.
11. **Rows need no unit length.** For the metric euclidean, x are float64 rows with ‖x‖ ≤ 1, and d is measured
    from them. Steps 1 to 10 use unit length for one thing: that the product of two rows is 1 - d²/2. Let
    g = (1 - ‖x‖²)/2. The left form (x, g, 1) of a row and the right form (y, 1, g') of another have the
    product x·y + g + g' = 1 - ‖x - y‖²/2, and take the place of the rows in every product (`Space.factors`).
    Both forms have the squared norm ‖x‖² + g² + 1 = 1 + (1 + ‖x‖²)²/4 ≤ 2, which replaces 1 + `margin` as
    the bound of norms in step 3, and gives η by Cauchy-Schwarz (`margins.lifted_margin`). A pair of tiles is
    compared as left forms of the first and right forms of the second (`Panels.mirror`). There are no axes.
    `margins.square_margin` holds for norms of at most 1 as it stands.
12. **Nor do tasks in other processes.** A task over pairs of tiles begins with thresholds of its rows'
    lists that were true when it was made (`tasks`). They have only risen since, so it drops no pair that
    step 4 keeps; entries that a list holds already are skipped (`kernels.merge_entries`), so that a task may
    be run twice. In the verify pass a task compares with an older tree, as in step 9, and returns a forest,
    as in step 8. A pair of tiles counts as done when its result has been entered. A task that compares rows
    with a block, to measure core distances, begins with bounds that have only fallen since, and returns all
    rows below them that may count; a second result of the same task is skipped (`block_cores`). Joining may
    find any edges.
13. **Nor does a device.** The passes are the same there, over `tiled.device` in the place of `tiled.host`;
    each step above asks of a product only that it is within η, and of a distance that it is in float64.

Below, one data set in tiles of several sizes, with and without the bound, and from a tree that is as poor
as can be. `tests/clustering/tiled` has the kills (`test_tiled_resume`) and the device (`test_tiled_device`).

>>> import numpy as np
>>> from panic_tda.clustering.backends.base import FitOptions
>>> from panic_tda.clustering.tiled.engine import Settings, TiledBackend
>>> rows = np.random.default_rng(0).standard_normal((300, 12))
>>> rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
>>> asked, once = FitOptions(min_samples=5, distance_floor=1e-3), np.ones(300, dtype=np.int64)
>>> def heights(**settings):
...     return np.sort(TiledBackend(Settings(**settings)).fit(rows, once, asked).height)
>>> whole = heights()
>>> np.array_equal(heights(tile_rows=7), whole)
True
>>> np.array_equal(heights(tile_rows=50, n_axes=4, bound_verify=False, threads=2), whole)
True
>>> star = lambda n, rng: (np.zeros(n - 1, dtype=np.int64), np.arange(1, n))
>>> np.array_equal(heights(tile_rows=50, initial_tree=star), whole)
True
"""
