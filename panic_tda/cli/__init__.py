"""What a command says, and how: terminal, text and JSON, shared options.

In flow the plain results of the library; out flow characters. `terminal` has progress, logs, signals and
exit codes, `rendering` turns results into text for people and JSON for programs, `options` has the Click
options that commands share. The commands themselves are in `panic_tda.main`; nothing here computes or opens
anything.

Words: *data* goes to stdout, *progress* and logs to stderr.
"""
