"""What a command says, and how: terminal, text and JSON, shared options.

In flow the plain results of the library; out flow characters. `terminal` has output, logs and exit codes,
`interruption` what SIGTERM and Ctrl-C do, `display` the bars and lines of progress, `rendering` turns results
into text for people and JSON for programs, `text` knows what a terminal would obey, how wide it shows a line,
and tables, `parsing` reads sizes, times and devices, `completion` answers a shell that waits at the Tab key,
and `options` has the Click options that commands share and the sections of their help. The commands
themselves are in `panic_tda.commands`; nothing here computes anything.

Words: *data* goes to stdout, *progress* and logs to stderr.
"""
