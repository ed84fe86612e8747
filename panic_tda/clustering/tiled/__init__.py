"""The exact engine: float32 tiles find candidates within proven margins, float64 decides.

The input is n distinct unit rows, (n, d) float32, with their multiplicities. The output is a minimum spanning
tree of their mutual reachability graph. Its heights are measured in float64; the settings do not change them.

Passes
------
============  ==================================================================  ===========================
pass          action                                                              output
============  ==================================================================  ===========================
`space`       measures the margins; projects the rows on principal axes (`axes`)  `contract.Space`
`layout`      puts rows that resemble each other into one tile                    `Layout`: order and starts
`neighbours`  multiplies all pairs of tiles, each once for both sides             lists of the nearest rows
`cores`       measures k-th distances in float64 from the lists                   core distances, (n,)
`forest`      joins rows along their lists                                        a forest and its components
`joining`     joins the components                                                an initial spanning tree
`verify`      scans all pairs of tiles again: improving edges, which are below    the minimum spanning tree
              the tree's path maximum (`improving_edges`), enter the tree
============  ==================================================================  ===========================

With an executor, `block_neighbours` and `block_verify` run both passes over tile pairs as `tasks` of pairs of
`blocks`, in any order and in other processes, and so do `block_cores` and `block_joining` what grows with the
square of the rows in `cores` and `joining`. `row_files` are the files from which the tasks read.

`engine` runs the passes and writes the checkpoints. `contract` defines the interface between the passes and
the memory they work in; `host` implements it with compiled loops, `device` with CuPy (`device_lists`,
`cuda_kernels`). `workers` manages the threads.

In host memory, pairs of tiles are scanned in three levels. `microkernels` multiplies blocks of rows and
columns in registers and compares the sums with thresholds; `panels` packs the rows for it, as int16 where
the processor has an instruction for that, and `coarse` as int8, which rules out most blocks; `candidates`
loops over the blocks of a pair of tiles; `pair_kernels` loops over many pairs of tiles in one call, takes
whole rows where the axes leave too many pairs, and decides about each candidate. `kernels` (one tile) and
`row_kernels` (rows and lists) are the other compiled loops.

Terms
-----
row            a number of the matrix.
position       an index into an order of the rows; a tile is a range of positions. The neighbour pass has the
               order of `layout`, the verify pass dendrogram order.
slot           an index into the packed rows; tiles are padded to whole panels (`panels`).
local index    a number within one tile; a *packed pair index*, `i * width + j`, names a pair of them.
dendrogram     the rows side by side as the tree's edges join them (`trees.DendrogramOrder`).
order
merge height   height at which a position joined the one before it. The largest merge height between two
(gap)          positions is the heaviest edge on the tree's path between their rows: their *path maximum*.
height         of an edge, its mutual reachability distance. Of a row in one pair of tiles, its share of the
               path maximum (`improving_edges`).
pruned row     a row whose core distance alone rules out all its pairs of one pair of tiles.
candidate pair a pair of rows whose bound, or float32 product, says that it may matter.
improving edge a candidate pair that does, in float64: it is below the tree's path maximum.
inter-         an edge between two components of the neighbour graph (`joining`).
component edge
projected      a row's coordinates on the principal axes, and the length of the residual: the product of the
coordinates    coordinates of two rows bounds the product of the rows (`axes`).
margin, slack  largest error of a product of rows, and largest amount by which a product of projected
               coordinates is below the product of the rows (`margins`).

Guarantees of each module that make the result exact
----------------------------------------------------
`margins`      η bounds the error of a float32 product in any order of summation; every threshold is
               rounded to the side on which nothing is lost.
`axes`         a product of projected coordinates plus the slack is never below that of the rows.
`panels`, `coarse`  a sum of packed values lies within a proven error of that of the coordinates; thresholds
               are rounded down.
`neighbours`   every pair of rows is looked at once, and dropped only if it can enter neither list.
`cores`        every row that can be the k-th is measured; one whose list may be too short is looked up again.
`forest`, `joining`  their result is a spanning tree with true heights. Nothing else is required of them.
`improving_edges`  no pair is dropped that is lighter than its path maximum.
`verify`       every pair of tiles is looked at once, and path maxima only fall.
`kernels`, `device`  distances are sums in float64 of squared differences of the float32 rows.

`proof` proves step by step that tiles, threads and the device do not change the result.
"""
