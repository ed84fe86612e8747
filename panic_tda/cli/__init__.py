"""Input and output of the commands: options, text, JSON, progress and logs.

- `options`: the Click options that commands share, and the sections of their help
- `parsing`: sizes, times, devices and cluster sizes as users write them
- `terminal`: stdout, stderr, logs and exit codes
- `display`: progress bars and progress lines
- `interruption`: SIGTERM and Ctrl-C
- `rendering`: results of the library as text for people and as JSON for programs
- `text`: widths of lines, paragraphs and tables
- `completion`: shell completion
- `handbook`: the installed handbook
- `browser`: opens an HTML file

The commands themselves are in `panic_tda.commands`. This package computes no results. Data goes to stdout,
progress and logs go to stderr.
"""
