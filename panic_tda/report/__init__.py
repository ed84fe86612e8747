"""The page a person looks at, one self-contained file, and the figure for a paper.

From the bottom up: `thumbnails` (of the medoids' images); `head`, `places` and `motion`, which say what a
part of the page shows; `container`, which makes one text of all of it; `gathering`, which reads a clustering
once and asks `insight` what it comes to; `page`, which fills in the template;
`making`, which writes the file. `figure` draws the map for print. Nothing here
computes what a number says: the numbers are those of `show-trajectories`, `show-density` and
`sweep-clustering`, from the same functions.

The page is one file that works from a mail attachment. Its policy allows its own script and style, by their
hashes, and images that it carries; no request leaves it, and what is read from a database becomes text nodes
or pixels and never markup. The data stands in an element that no browser runs, as gzip in base64, which a
browser undoes by itself (`DecompressionStream`).

The script is a dozen modules of plain JavaScript with their types in comments (`deno check` and `deno lint`
in the tests), put into one because such a page has nowhere to import from. They draw on canvases what has
many parts (map, tree, strips, matrix) and as SVG what has few. Plotly would do the latter too, but its bundle
weighs 4.6 MB, more than all else together, and its WebGL traces make functions of texts, which the policy
forbids.
"""
