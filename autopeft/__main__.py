"""`python -m autopeft …` is `autopeft …`."""

from autopeft.cli import main

if __name__ == "__main__":
    main()
