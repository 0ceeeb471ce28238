"""Charts as SVG text, drawn by matplotlib."""
