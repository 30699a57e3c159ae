"""GDE, global description encoding: the caption."""
