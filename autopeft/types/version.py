"""The version of autopeft, which the package, the wheel and every run read here."""

VERSION = "0.3.0"
