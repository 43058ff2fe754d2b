"""Hidden confounding: formulas, and the report of an effect."""
