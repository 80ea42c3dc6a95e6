"""`python -m hostler` and the `hostler` command."""

from hostler.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
