"""The version of autopeft, written once: the package, the wheel and every run read it here."""

VERSION = "0.3.0.dev0"
