"""GDE, global description encoding: the caption and its bytes."""
