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
    run()
