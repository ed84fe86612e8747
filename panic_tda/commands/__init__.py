"""The commands, one module per family.

A command parses its options, calls the library, and prints the result as text or JSON with `panic_tda.cli`.
Python programs can call the same functions of the library.

- `data`: upgrade, fill, check and copy databases
- `planning`: estimate time and memory
- `fitting`: cluster embeddings, recut clusterings
- `assigning`: assign new embeddings to stored clusterings
- `stored`: list, show and delete clusterings, save pending results
- `trajectories`: how runs move between clusters
- `insight`: sweep, density, comparison
- `validation`: stability, merges, divergence
- `report`: HTML report and figure
- `exports`: files for other programs
- `handbook`: the handbook in the terminal
- `shell`: shell completion

`panic_tda.main` collects the commands. A command imports the library when it runs, so that --help is fast.
"""
