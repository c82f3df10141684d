"""`python cli.py …` is `autopeft …`, for a checkout that is not installed."""

from autopeft.cli import main

if __name__ == "__main__":
    main()
