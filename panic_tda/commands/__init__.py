"""The commands, a file for each family of them.

Each parses its options, calls one function of the library, and prints what came back; so what a command can
do, a program can. In flow words of a shell, out flow text for people or JSON for programs, by `cli`.

`data` (what is in a database), `planning` (what clusterings would take), `fitting` (making them), `stored`
(listing, showing, deleting them), `trajectories` and `insight` (what they say), `exports` (files of them),
`shell` (what makes a shell know the commands). `panic_tda.main` gathers them. What a command computes with is
imported when it runs: --help is instant.
"""
