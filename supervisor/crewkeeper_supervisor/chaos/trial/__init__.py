"""Trial: what was seen of a played scenario, what was expected of it, the verdict, and how both are told."""
