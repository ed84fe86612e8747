"""`panic-tda`, and `python -m panic_tda`."""

import sys


def run() -> None:
    """Run the command; Ctrl-C while it is still being loaded ends it as Ctrl-C does later."""
    try:
        from panic_tda.main import main

        main(prog_name="panic-tda")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # `-m` looks for modules in the working folder first; a click.py among someone's data is none of ours.
        # Behind the others it still serves a package that is not installed.
        sys.path.append(sys.path.pop(0))
    run()
