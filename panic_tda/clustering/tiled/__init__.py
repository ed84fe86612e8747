"""The exact engine: float32 tiles find candidates within proven margins, float64 decides.

In flow n distinct unit rows, (n, d) float32, with their multiplicities. Out flows a minimum spanning tree of
their mutual reachability graph, whose heights are measured in float64: the same, whatever found its edges.

The way, pass by pass
---------------------
============  ==================================================================  ===========================
pass          what it does                                                        what it hands on
============  ==================================================================  ===========================
`space`       measures the margins; projects the rows on principal axes (`axes`)  `contract.Space`
`layout`      puts rows that resemble each other into one tile                    `Layout`: order and starts
`neighbours`  multiplies all pairs of tiles, each once for both sides             lists of the nearest rows
`cores`       measures k-th distances in float64 from the lists                   core distances, (n,)
`forest`      joins rows along their lists                                        a forest, and its groups
`joining`     joins the groups                                                    a first spanning tree
`verify`      looks at all pairs of tiles again: an edge that is lighter than     the minimum spanning tree
              the tree's path between its ends (`light_edges`) enters the tree
============  ==================================================================  ===========================

`engine` is the recipe, with what is kept in checkpoints. `contract` is all that the passes know of the memory
they work in; `host` fulfils it with compiled loops, `device` with CuPy (`device_lists`, `cuda_kernels`).
`workers` are the threads.

In host memory, pairs of tiles are scanned in three levels. `microkernels` multiplies blocks of rows and
columns in registers and compares the sums with thresholds; `panels` packs the rows for it, as int16 where
the processor has an instruction for that; `pair_kernels` loops over many pairs of tiles in one call, takes
whole rows where the axes leave too many pairs, and decides about each candidate. `kernels` (one tile) and
`row_kernels` (rows and lists) are the other compiled loops.

Terms
-----
row            a number of the matrix.
position       a place in an order of the rows, of which a tile is a range. The neighbour pass has the
               order of `layout`, the verify pass dendrogram order.
slot           a place among the packed rows; tiles are padded to whole panels (`panels`).
local index    a number within one tile; a *packed pair index*, `i * width + j`, names a pair of them.
dendrogram     the rows side by side as the tree's edges join them (`trees.DendrogramOrder`).
order
merge height   height at which a position joined the one before it. The largest merge height between two
(gap)          positions is the heaviest edge on the tree's path between their rows: their *path maximum*.
height         of an edge, its mutual reachability distance. Of a row in one pair of tiles, its share of the
               path maximum (`light_edges`).
pruned row     a row whose core distance alone rules out all its pairs of one pair of tiles.
candidate pair a pair of rows whose bound, or float32 product, says that it may matter.
improving edge a candidate pair that does, in float64: it is below the tree's path maximum.
joint          an inter-component edge: one between two groups of rows (`joining`).
point          a row's coordinates on the axes, and the length of what they leave over: the product of two
               points bounds that of their rows (`axes`).
margin, slack  how far a product of rows may lie from the truth, and a product of points below it (`margins`).

What each file keeps, so that the answer is exact
-------------------------------------------------
`margins`      η bounds the error of a float32 product in any order of summation; every threshold is
               rounded to the side on which nothing is lost.
`axes`         a product of points plus the slack is never below that of the rows.
`panels`       a sum of packed values lies within a proven error of the product of the points; thresholds
               are rounded down.
`neighbours`   every pair of rows is looked at once, and dropped only if it can enter neither list.
`cores`        every row that can be the k-th is measured; one whose list may be too short is looked up again.
`forest`, `joining`  what they find is a spanning tree with true heights. Nothing else is asked of them.
`light_edges`  no pair is dropped that is lighter than its path maximum.
`verify`       every pair of tiles is looked at once, and path maxima only fall.
`kernels`, `device`  distances are sums in float64 of squared differences of the float32 rows.

Why neither tiles nor threads nor the device change the answer is proved in `proof`, step by step.
"""
