"""Write the HTML page about a clustering, and draw its map as a figure.

From the bottom up: `thumbnails` (small images of the medoids); `head`, `places` and `motion` (the data of
the parts of the page); `container` (packs all data into one text); `gathering` (reads a clustering once and
calls `insight`); `page` (fills in the template); `making` (writes the file). `figure` draws the map for
print. Nothing here computes statistics: the numbers come from the functions of `insight` that
`show-trajectories`, `show-density` and `sweep-clustering` use too.

The page is one file and works without a network. Its content security policy allows only its own script and
style, by their hashes, and embedded images. The page sends no requests. Values from a database become text
nodes or pixels, never markup. The data is gzip in base64 in an element that browsers do not run; the browser
decompresses it (`DecompressionStream`).

The script consists of modules of plain JavaScript with types in comments (`deno check` and `deno lint` in the
tests). A page that is one file cannot import modules, so it contains `page.min.js`. `deno task bundle` in
this folder builds that file from the modules and from `vendor/`, and a test compares it with a fresh build.
The modules draw views with many parts (map, tree, strips, matrix) on canvases, and those with few as SVG.
Alternatives: Plotly's bundle has 4.6 MB, more than the rest of the page, and its WebGL traces compile
functions from text, which the policy forbids. Observable Plot has 256 kB and writes style elements, which the
policy forbids too. uPlot (52 kB) and d3-zoom (54 kB) would each double the script; uPlot saves no lines, and
with d3-zoom one finger cannot both drag the map sideways and scroll the page.
"""
