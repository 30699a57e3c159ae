"""Boxes and points as people type them, on the command line and in the page."""

import argparse


def parse_numbers(count: int, weighted: bool = True):
    """A parser of "10,20,90,80" or, if `weighted`, "10,20,90,80:0.6"; gives the numbers, and the weight or None."""

    def parse(text: str):
        numbers, _, typed_weight = text.partition(":") if weighted else (text, "", "")
        weight = None
        try:
            values = tuple(float(part) for part in numbers.split(","))
            if typed_weight:
                weight = float(typed_weight)
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"expected {count} numbers separated by commas, got {text!r}")
        return values, weight

    return parse
