"""Charts as SVG text, drawn by matplotlib: one file a chart."""
