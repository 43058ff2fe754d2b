"""Published data sets, against least squares and published answers."""
